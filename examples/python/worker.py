"""One of several workers that share the records of a topic: each record is handled, whichever of them is killed."""

import os
import random
import sys
import time

import grpc
from google.protobuf.duration_pb2 import Duration
from streamway.v1 import group_pb2 as pb
from streamway.v1 import group_pb2_grpc as rpc

RETRYABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def handle(offset, record):
    print(offset, record.value.decode(), flush=True)


def settle(stub, lease):
    """Handles the records of a lease. A settlement is durable, and safe to repeat."""
    settlement = pb.Settlement(number=1, token=lease.token)
    for batch in lease.batches:
        for offset, record in enumerate(batch.records, batch.first_offset):
            one = pb.OffsetRange(start=offset, end=offset + 1)
            try:
                handle(offset, record)
                settlement.acks.append(one)
            except Exception as error:  # it is delivered again, to any worker
                settlement.nacks.append(pb.Nack(range=one, reason=str(error)[:200]))
    retry(lambda: stub.Settle(pb.SettleRequest(settlements=[settlement])))


def retry(call):
    """Repeats a call while the server is away."""
    wait = 0.1
    while True:
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in RETRYABLE:
                raise
        time.sleep(random.uniform(0, wait))
        wait = min(wait * 2, 5)


def main(target="localhost:50051", topic="greetings", group="workers"):
    with grpc.insecure_channel(target) as channel:
        stub = rpc.GroupServiceStub(channel)
        try:
            retry(lambda: stub.CreateGroup(pb.CreateGroupRequest(group=pb.Group(topic=topic, name=group))))
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.ALREADY_EXISTS:
                raise
        member = f"worker {os.getpid()}"
        ask = pb.LeaseRequest(topic=topic, group=group, member=member, max_records=10, wait=Duration(seconds=5))
        while True:
            for lease in retry(lambda: stub.Lease(ask)).leases:
                settle(stub, lease)


if __name__ == "__main__":
    main(*sys.argv[1:])
