"""Follows a topic through restarts, kills and cut connections: every record once, in order."""

import random
import sys
import time

import grpc
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc


def is_interruption(error):
    """The rule of docs/errors.md. All but UNAVAILABLE is what load balancers make of a server that went away."""
    ours = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
        return True
    return not ours and error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


def follow(target, topic):
    request = pb.SubscribeRequest(topic=topic, boundary=pb.BOUNDARY_EARLIEST)
    with grpc.insecure_channel(target, options=[("grpc.keepalive_time_ms", 30_000)]) as channel:
        wait = 0.1
        while True:
            try:
                for message in rpc.StreamServiceStub(channel).Subscribe(request):
                    for batch in message.batches:
                        yield from enumerate(batch.records, batch.first_offset)
                    request.position.CopyFrom(message.next)  # keep this to survive your own restarts
                    wait = 0.1
            except grpc.RpcError as error:
                if not is_interruption(error):
                    raise
            time.sleep(random.uniform(0, wait))
            wait = min(wait * 2, 5)


if __name__ == "__main__":
    for offset, record in follow(*(sys.argv[1:] or ["localhost:50051", "greetings"])):
        print(offset, record.value.decode(), flush=True)
