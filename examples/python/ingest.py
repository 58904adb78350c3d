"""Client streaming: many batches in order, one summary once all of them are on disk."""

import sys

import grpc
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc


def batches(topic, n):
    for i in range(n):
        records = [pb.Record(value=f"batch {i}, record {j}".encode()) for j in range(10)]
        yield pb.IngestRequest(publish=pb.PublishRequest(topic=topic, records=records))


def main(target="localhost:50051", topic="bulk"):
    with grpc.insecure_channel(target) as channel:
        summary = rpc.StreamServiceStub(channel).Ingest(batches(topic, 100), timeout=60)
        print(f"stored {summary.records} records in {summary.batches} batches")


if __name__ == "__main__":
    main(*sys.argv[1:])
