// gRPC-Web by a client that nobody here wrote: node grpc_web.mjs PACKAGES DESCRIPTORS URL. Prints what it saw as JSON.
// The services come from a FileDescriptorSet, so nothing is generated.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [packages, descriptors, url] = process.argv.slice(2);
const require = createRequire(`${packages}/`);
const load = (name) => import(pathToFileURL(require.resolve(name)));
const { createFileRegistry, fromBinary } = await load("@bufbuild/protobuf");
const { FileDescriptorSetSchema } = await load("@bufbuild/protobuf/wkt");
const { Code, ConnectError, createClient } = await load("@connectrpc/connect");
const { createGrpcWebTransport } = await load("@connectrpc/connect-web");

const files = createFileRegistry(fromBinary(FileDescriptorSetSchema, readFileSync(descriptors)));
const service = (name) => files.getService(`streamway.v1.${name}`);
const seen = {};
const transport = createGrpcWebTransport({ baseUrl: url });
const streams = createClient(service("StreamService"), transport);
const topics = createClient(service("TopicService"), transport);

const records = ["a", "b", "c"].map((text) => ({ value: new TextEncoder().encode(text) }));
const { receipt } = await streams.publish({ topic: "web", records });
seen.next = String(receipt.next.offset);

seen.read = [];
const start = { case: "boundary", value: 1 };
for await (const answer of streams.subscribe({ topic: "web", start, limit: { stopAtTail: true } })) {
  for (const batch of answer.batches) seen.read.push(...batch.records.map((record) => new TextDecoder().decode(record.value)));
}

try {
  await topics.getTopic({ name: "none" });
} catch (error) {
  const connect = ConnectError.from(error);
  const [info] = connect.findDetails(files.getMessage("google.rpc.ErrorInfo"));
  seen.error = { code: Code[connect.code], reason: info.reason };
}

// Errors after the first message come as trailers.
try {
  for await (const answer of streams.subscribe({ topic: "web", start })) {
    if (answer.batches.length > 0) await topics.deleteTopic({ name: "web" });
  }
} catch (error) {
  seen.late = Code[ConnectError.from(error).code];
}
console.log(JSON.stringify(seen));
