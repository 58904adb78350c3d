"""Publishers and subscribers that follow docs/errors.md: they repeat or resume calls that broke.

They record what they sent and received, so that a test can check that no acknowledged record was lost, repeated or reordered.
"""

import collections
import importlib.util
import threading
import time
import uuid

import grpc
from engine import ROOT, wait

# The conftest of tests/python generates the stubs. It is executed here, as pytest does not load it.
_path = ROOT / "tests" / "python" / "conftest.py"
_spec = importlib.util.spec_from_file_location("python_tests", _path)
_spec.loader.exec_module(importlib.util.module_from_spec(_spec))
# The example of a resume loop decides which errors are interruptions.
_spec = importlib.util.spec_from_file_location("resume", ROOT / "examples" / "python" / "resume.py")
from streamway.v1 import stream_pb2 as pb  # noqa: E402
from streamway.v1 import stream_pb2_grpc as rpc  # noqa: E402

resume = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(resume)

CALL_SECONDS = 10
RETRY_SECONDS = 0.1
# Reconnects soon, since the tests' servers come back in seconds.
OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
# Gives each channel a connection of its own.
OPTIONS += [("grpc.use_local_subchannel_pool", 1)]
# Looks names up again as soon as that, instead of after 30 s, and gives an address up that does not answer, instead of after 20 s.
OPTIONS += [("grpc.dns_min_time_between_resolutions_ms", 500), ("grpc.min_reconnect_backoff_ms", 2000)]


def channel(address):
    return grpc.insecure_channel(address, options=OPTIONS)


class Client(threading.Thread):
    """A thread that `finish` ends, and whose exception `finish` raises."""

    def __init__(self, address, topic):
        super().__init__(daemon=True)
        self.address, self.topic = address, topic
        self.done = threading.Event()
        self.failure = None
        # Number of retries by code and message.
        self.retries = collections.Counter()
        self.start()

    def run(self):
        try:
            self.work()
        except BaseException as failure:
            self.failure = failure

    def finish(self, seconds=60):
        self.done.set()
        self.join(seconds)
        assert not self.is_alive(), f"{type(self).__name__} does not end"
        if self.failure:
            raise self.failure
        return self

    def again(self, error):
        """Counts an interruption, after which the call is tried again, and raises every other error."""
        if not resume.is_interruption(error):
            raise error
        self.retries[f"{error.code().name}: {error.details()}"] += 1
        time.sleep(RETRY_SECONDS)


class Publisher(Client):
    """Publishes numbered records one at a time, and records the offsets of those acknowledged."""

    def __init__(self, address, topic, name="first", pause=0.002):
        self.name_, self.pause = name, pause
        self.acknowledged = {}
        super().__init__(address, topic)

    def work(self):
        number = 0
        with channel(self.address) as open_channel:
            stub = rpc.StreamServiceStub(open_channel)
            while not self.done.is_set():
                value = f"{self.name_}-{number}".encode()
                request = pb.PublishRequest(topic=self.topic, request_id=str(uuid.uuid4()))
                request.records.add(value=value)
                self.acknowledged[value] = self.publish(stub, request)
                number += 1
                time.sleep(self.pause)

    def publish(self, stub, request):
        while True:
            try:
                return stub.Publish(request, timeout=CALL_SECONDS).receipt.first_offset
            except grpc.RpcError as error:
                self.again(error)


class Flood(Client):
    """Publishes large batches, 32 at a time, whatever becomes of them, so that the server needs 100 MB for them."""

    def work(self):
        request = pb.PublishRequest(topic=self.topic)
        for _ in range(3):
            request.records.add(value=bytes(1_000_000))
        with channel(self.address) as open_channel:
            stub = rpc.StreamServiceStub(open_channel)
            while not self.done.is_set():
                calls = [stub.Publish.future(request, timeout=CALL_SECONDS) for _ in range(32)]
                for call in calls:
                    call.exception()


class Subscriber(Client):
    """Follows a topic from its beginning across interruptions. Records what came and the longest gap."""

    def __init__(self, address, topic, heartbeat=None):
        self.heartbeat = heartbeat
        self.records = []
        self.offsets = []
        self.gap = 0.0
        self.heartbeats = 0
        self.streams = 0
        self.position = None
        self.last = None
        super().__init__(address, topic)

    def work(self):
        with channel(self.address) as open_channel:
            stub = rpc.StreamServiceStub(open_channel)
            while not self.done.is_set():
                try:
                    self.follow(stub)
                except grpc.RpcError as error:
                    if self.done.is_set():
                        return
                    self.again(error)

    def follow(self, stub):
        request = pb.SubscribeRequest(topic=self.topic, boundary=pb.BOUNDARY_EARLIEST)
        if self.position:
            request.position.CopyFrom(self.position)
        if self.heartbeat:
            request.heartbeat_interval.FromSeconds(self.heartbeat)
        call = stub.Subscribe(request)
        self.streams += 1
        stop = threading.Thread(target=lambda: (self.done.wait(), call.cancel()), daemon=True)
        stop.start()
        for answer in call:
            self.take(answer)

    def take(self, answer):
        if not answer.batches:
            self.heartbeats += 1
        now = time.monotonic()
        for batch in answer.batches:
            for index, record in enumerate(batch.records):
                self.offsets.append(batch.first_offset + index)
                self.records.append(record.value)
            if self.last is not None:
                self.gap = max(self.gap, now - self.last)
            self.last = now
        self.position = pb.Position(epoch=answer.next.epoch, offset=answer.next.offset)


def records(address, topic, acknowledged):
    """Reads a topic until it has `acknowledged` records; returns the finished subscriber."""
    subscriber = Subscriber(address, topic)
    end = time.monotonic() + 60
    while len(subscriber.records) < acknowledged and time.monotonic() < end and not subscriber.failure:
        time.sleep(0.05)
    return subscriber.finish()


def check(publishers, subscribers):
    """Checks that every acknowledged record came once and in order. Others may have come once."""
    acknowledged = {}
    for publisher in publishers:
        acknowledged |= publisher.acknowledged
    for subscriber in subscribers:
        came = dict(zip(subscriber.records, subscriber.offsets, strict=True))
        assert len(came) == len(subscriber.records), "a record came twice"
        assert subscriber.offsets == sorted(set(subscriber.offsets)), "out of order"
        lost = {value for value in acknowledged if value not in came}
        assert not lost, f"{len(lost)} acknowledged records did not come, of {len(acknowledged)}"
        moved = [value for value, offset in acknowledged.items() if came[value] != offset]
        assert not moved, f"{len(moved)} records came at another offset than was acknowledged"


def settle(address, topic, publishers, subscribers):
    """Ends the load and checks what all subscribers and a new reader got. Returns the number of records."""
    for publisher in publishers:
        publisher.finish()
    total = sum(len(publisher.acknowledged) for publisher in publishers)
    wait("the subscribers", lambda: all(len(s.records) >= total or s.failure for s in subscribers))
    for subscriber in subscribers:
        subscriber.finish()
    check(publishers, [*subscribers, records(address, topic, total)])
    return total


def carries_on(publishers, more=20):
    """Waits until each has published `more` records than it has by now."""
    before = [len(publisher.acknowledged) + more for publisher in publishers]
    each = list(zip(publishers, before, strict=True))
    wait("publishing to go on", lambda: all(len(p.acknowledged) > n or p.failure for p, n in each))
