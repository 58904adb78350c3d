"""Workers of a group with grpcio and stubs generated from the protos: nobody of our client libraries wrote them."""

import collections
import queue
import threading

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2
from streamway.v1 import group_pb2 as pb
from streamway.v1 import group_pb2_grpc as rpc
from streamway.v1 import stream_pb2, stream_pb2_grpc


class Worker:
    """One Consume call, whose handler decides what becomes of each record."""

    def __init__(self, channel, topic, group, credit=100, session=b""):
        self.outgoing = queue.Queue()
        self.number = 0
        self.send(join=pb.Join(topic=topic, group=group, member="grpcio", session=session))
        self.send(credit=pb.Credit(records=credit, bytes=1 << 40))
        self.answers = rpc.GroupServiceStub(channel).Consume(iter(self.outgoing.get, None), timeout=60)
        self.joined = next(self.answers).joined
        self.outcomes = {}

    def send(self, **kind):
        self.outgoing.put(pb.ConsumeRequest(**kind))

    def settle(self, lease, **parts):
        self.number += 1
        self.send(settlement=pb.Settlement(number=self.number, token=lease.token, **parts))
        return self.number

    def leave(self):
        self.send(leave=pb.Leave())
        for answer in self.answers:
            self.outcomes.update((outcome.number, outcome.result) for outcome in answer.outcomes)


def publish(channel, topic, values):
    stub = stream_pb2_grpc.StreamServiceStub(channel)
    records = [stream_pb2.Record(key=value[:1], value=value) for value in values]
    stub.Publish(stream_pb2.PublishRequest(topic=topic, records=records), timeout=10)


def reason(error):
    status = status_pb2.Status.FromString(dict(error.value.trailing_metadata())["grpc-status-details-bin"])
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason
    return None


def test_two_workers_share_the_records_and_each_is_handled_once(server):
    topic, count = "py-shared", 300
    with server.channel() as channel:
        publish(channel, topic, [b"%d" % i for i in range(count)])
        done, handled, lock = threading.Event(), collections.Counter(), threading.Lock()

        def work(worker):
            waiting = {}
            for answer in worker.answers:
                for lease in answer.leases:
                    for batch in lease.batches:
                        ack = pb.OffsetRange(start=batch.first_offset, end=batch.first_offset + len(batch.records))
                        waiting[worker.settle(lease, acks=[ack])] = [record.value for record in batch.records]
                for outcome in answer.outcomes:
                    assert outcome.result == pb.SETTLEMENT_RESULT_SETTLED
                    with lock:
                        handled.update(waiting.pop(outcome.number, ()))
                        if len(handled) == count:
                            done.set()

        with server.channel() as other:
            workers = [Worker(each, topic, "workers", credit=1000) for each in (channel, other)]
            threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in workers]
            for thread in threads:
                thread.start()
            assert done.wait(30), handled
            for worker, thread in zip(workers, threads, strict=True):
                worker.send(leave=pb.Leave())
                thread.join(10)
                assert not thread.is_alive(), "leaving ends the call"
        assert set(handled.values()) == {1}


def test_a_refused_record_comes_again_and_then_goes_to_the_dead_letter_topic(server):
    with server.channel() as channel:
        publish(channel, "py-poison", [b"bad"])
        groups = rpc.GroupServiceStub(channel)
        settings = pb.GroupSettings(deliveries_max=3, dead_letter_topic="py-dead", backoff=[Duration(nanos=1000000)])
        group = pb.Group(topic="py-poison", name="workers", settings=settings)
        created = groups.CreateGroup(pb.CreateGroupRequest(group=group), timeout=10).group
        assert created.settings.poison == pb.POISON_POLICY_DEAD_LETTER and created.id
        worker, deliveries = Worker(channel, "py-poison", "workers"), []
        while len(deliveries) < 3:
            for lease in next(worker.answers).leases:
                deliveries.append(lease.redeliveries[0].delivery if lease.redeliveries else 1)
                worker.settle(lease, nacks=[pb.Nack(range=pb.OffsetRange(start=0, end=1), reason="because")])
        assert deliveries == [1, 2, 3]
        stub = stream_pb2_grpc.StreamServiceStub(channel)
        request = stream_pb2.SubscribeRequest(topic="py-dead", boundary=stream_pb2.BOUNDARY_EARLIEST)
        for message in stub.Subscribe(request, timeout=30):
            if message.batches:
                record = message.batches[0].records[0]
                assert record.value == b"bad" and record.headers["streamway-reason"] == "because"
                break
        worker.leave()


def test_lease_and_settle_from_a_script(server):
    with server.channel() as channel:
        publish(channel, "py-cron", [b"a", b"b"])
        groups = rpc.GroupServiceStub(channel)
        groups.CreateGroup(pb.CreateGroupRequest(group=pb.Group(topic="py-cron", name="cron")), timeout=10)
        ask = pb.LeaseRequest(topic="py-cron", group="cron", max_records=10, wait=Duration(seconds=5))
        (lease,) = groups.Lease(ask, timeout=20).leases
        acks = [pb.OffsetRange(start=0, end=2)]
        settle = pb.SettleRequest(settlements=[pb.Settlement(token=lease.token, acks=acks)])
        for _ in range(2):
            (outcome,) = groups.Settle(settle, timeout=10).outcomes
            assert outcome.result == pb.SETTLEMENT_RESULT_SETTLED
        found = groups.GetGroup(pb.GetGroupRequest(topic="py-cron", name="cron"), timeout=10).group
        assert (found.status.lag_records, found.status.oldest_unsettled_offset) == (0, 2)


def test_a_group_that_is_not_there(server):
    with server.channel() as channel, pytest.raises(grpc.RpcError) as caught:
        rpc.GroupServiceStub(channel).GetGroup(pb.GetGroupRequest(topic="py-none", name="none"), timeout=10)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND and reason(caught) == "GROUP_NOT_FOUND"
