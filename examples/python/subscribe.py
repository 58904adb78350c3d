"""Server streaming: what is in the topic, from the oldest record to the tail."""

import sys

import grpc
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc


def main(target="localhost:50051", topic="greetings"):
    with grpc.insecure_channel(target) as channel:
        request = pb.SubscribeRequest(
            topic=topic,
            boundary=pb.BOUNDARY_EARLIEST,
            limit=pb.ReadLimit(stop_at_tail=True),  # without a limit it goes on, live
        )
        for message in rpc.StreamServiceStub(channel).Subscribe(request):
            for batch in message.batches:
                for offset, record in enumerate(batch.records, batch.first_offset):
                    print(offset, record.key.decode(), record.value.decode())


if __name__ == "__main__":
    main(*sys.argv[1:])
