"""Unary: one batch, one receipt once it is on disk. Safe to repeat, thanks to the request id."""

import sys
import uuid

import grpc
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc


def main(target="localhost:50051", topic="greetings"):
    with grpc.insecure_channel(target) as channel:
        request = pb.PublishRequest(
            topic=topic,
            request_id=str(uuid.uuid4()),
            records=[pb.Record(key=b"en", value=b"hello"), pb.Record(key=b"fr", value=b"bonjour")],
        )
        receipt = rpc.StreamServiceStub(channel).Publish(request, timeout=10).receipt
        print(f"stored at offset {receipt.first_offset}, next is {receipt.next.offset}")


if __name__ == "__main__":
    main(*sys.argv[1:])
