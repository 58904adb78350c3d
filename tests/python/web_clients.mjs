// gRPC-Web in a page of another origin, by two clients that nobody here wrote: Connect's on fetch, and grpc-web on
// XMLHttpRequest. `run(URL)` returns what each of them saw. The services come from a FileDescriptorSet.
import { createFileRegistry, create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";
import { GrpcWebClientBase, MethodDescriptor, MethodType, StatusCode } from "grpc-web";

const text = (bytes) => new TextDecoder().decode(bytes);
const bytes = (text) => new TextEncoder().encode(text);
const start = { case: "boundary", value: 1 };
const name = (codes, number) => Object.keys(codes).find((key) => codes[key] === number);

export async function run(url) {
  const set = fromBinary(FileDescriptorSetSchema, new Uint8Array(await (await fetch("/descriptors")).arrayBuffer()));
  const files = createFileRegistry(set);
  return { connect: await connect(files, url), grpcWeb: await grpcWeb(files, url) };
}

async function connect(files, url) {
  const service = (name) => createClient(files.getService(`streamway.v1.${name}`), createGrpcWebTransport({ baseUrl: url }));
  const streams = service("StreamService"), topics = service("TopicService"), seen = { read: [] };
  const { receipt } = await streams.publish({ topic: "connect", records: [{ value: bytes("a") }, { value: bytes("b") }] });
  seen.next = String(receipt.next.offset);
  for await (const answer of streams.subscribe({ topic: "connect", start, limit: { stopAtTail: true } })) {
    for (const batch of answer.batches) seen.read.push(...batch.records.map((record) => text(record.value)));
  }
  // An answer of trailers only, whose status stands in headers that the page must be allowed to read.
  try { await topics.getTopic({ name: "none" }); } catch (error) {
    const [info] = ConnectError.from(error).findDetails(files.getMessage("google.rpc.ErrorInfo"));
    seen.error = [Code[error.code], info?.reason];
  }
  // An error after the first message comes in trailers.
  try {
    for await (const answer of streams.subscribe({ topic: "connect", start })) {
      if (answer.batches.length > 0) await topics.deleteTopic({ name: "connect" });
    }
  } catch (error) { seen.late = Code[ConnectError.from(error).code]; }
  return seen;
}

async function grpcWeb(files, url) {
  // grpc-web streams in its text format alone.
  const client = new GrpcWebClientBase({ format: "binary" }), streaming = new GrpcWebClientBase({ format: "text" }), seen = { read: [] };
  const method = (service, local, type) => {
    const { input, output } = files.getService(`streamway.v1.${service}`).methods.find((of) => of.name === local);
    const path = `/streamway.v1.${service}/${local}`;
    const descriptor = new MethodDescriptor(path, type, Object, Object, (message) => toBinary(input, create(input, message)), (data) => fromBinary(output, data));
    return [url + path, descriptor];
  };
  const unary = (service, local, message, by = client) => new Promise((done, fail) => {
    const [path, descriptor] = method(service, local, MethodType.UNARY);
    by.rpcCall(path, message, {}, descriptor, (error, answer) => (error ? fail(error) : done(answer)));
  });
  const { receipt } = await unary("StreamService", "Publish", { topic: "grpc-web", records: [{ value: bytes("a") }, { value: bytes("b") }] });
  seen.next = String(receipt.next.offset);
  seen.asText = String((await unary("TopicService", "GetTopic", { name: "grpc-web" }, streaming)).topic.tail);
  const info = (error) => {
    const details = error.metadata?.["grpc-status-details-bin"];
    if (!details) return null;
    const status = fromBinary(files.getMessage("google.rpc.Status"), Uint8Array.from(atob(details), (c) => c.charCodeAt(0)));
    const first = status.details.find((any) => any.typeUrl.endsWith("/google.rpc.ErrorInfo"));
    return fromBinary(files.getMessage("google.rpc.ErrorInfo"), first.value).reason;
  };
  try { await unary("TopicService", "GetTopic", { name: "none" }); } catch (error) { seen.error = [name(StatusCode, error.code), info(error)]; }
  const subscribe = (limit, take) => new Promise((done) => {
    const [path, descriptor] = method("StreamService", "Subscribe", MethodType.SERVER_STREAMING);
    const stream = streaming.serverStreaming(path, { topic: "grpc-web", start, limit }, {}, descriptor);
    stream.on("data", (answer) => { for (const batch of answer.batches) take(batch.records.map((record) => text(record.value))); });
    stream.on("error", (error) => done(name(StatusCode, error.code)));
    stream.on("end", () => done("OK"));
  });
  seen.ended = await subscribe({ stopAtTail: true }, (values) => seen.read.push(...values));
  seen.late = await subscribe(undefined, () => unary("TopicService", "DeleteTopic", { name: "grpc-web" }));
  return seen;
}
