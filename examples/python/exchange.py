"""Bidirectional: numbered batches go up without waiting, coalesced receipts come back in order."""

import sys

import grpc
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc


def requests(topic, n):
    yield pb.ExchangeRequest(open=pb.Open(topic=topic))
    for number in range(1, n + 1):
        publish = pb.PublishRequest(records=[pb.Record(value=f"pipelined {number}".encode())])
        yield pb.ExchangeRequest(publish=pb.NumberedPublish(number=number, publish=publish))


def main(target="localhost:50051", topic="pipeline", n=1000):
    with grpc.insecure_channel(target) as channel:
        acknowledged = 0
        for message in rpc.StreamServiceStub(channel).Exchange(requests(topic, int(n))):
            for receipt in message.receipts:
                assert receipt.number == acknowledged + 1, "receipts come in order"
                acknowledged = receipt.number
        print(f"{acknowledged} batches are on disk")


if __name__ == "__main__":
    main(*sys.argv[1:])
