"""Status codes that clients on grpc-core get at a drain, at a crash and without replicas, through a real HAProxy with the
configuration of the repository."""

import queue
import re
import subprocess
import sys
import threading
import time

import grpc
import pytest
from conftest import BINARY, ROOT, Server
from real import await_port, free_port, running
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc

sys.path.insert(0, str(ROOT / "examples" / "python"))
from resume import is_interruption  # noqa: E402

SHIPPED = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
CALLS = [(kind, busy) for kind in ("exchange", "ingest") for busy in (False, True)]


def shipped(server, port):
    """The configuration of the repository with one replica on loopback instead of three in a network."""
    text = SHIPPED.read_text().replace("bind :50051 proto h2", f"bind 127.0.0.1:{port} proto h2")
    text = text.replace("bind :8080\n", f"bind 127.0.0.1:{free_port()}\n").replace("streamway-1:8080", server.http)
    text = text.replace("bind 127.0.0.1:9901", f"bind 127.0.0.1:{free_port()}")
    text = re.sub(r"\n *server streamway-[23] .*", "", text)
    text = text.replace("streamway-1:50051", server.listen).replace("port 8081", f"port {server.admin.split(':')[1]}")
    return text.replace(" resolvers system init-addr last,libc,none", "")


class Call:
    """An open stream, which publishes once and waits, or keeps publishing."""

    def __init__(self, stub, kind, busy):
        self.kind, self.busy, self.end, self.error = kind, busy, queue.Queue(), None
        self.begun = threading.Event()
        call = stub.Exchange(self.requests()) if kind == "exchange" else stub.Ingest.future(self.requests())
        self.thread = threading.Thread(target=self.follow, args=(call,), daemon=True)
        self.thread.start()

    def requests(self):
        if self.kind == "exchange":
            yield pb.ExchangeRequest(open=pb.Open(topic="t"))
        number = 0
        while True:
            number += 1
            publish = pb.PublishRequest(topic="" if self.kind == "exchange" else "t", records=[pb.Record(value=b"x")])
            if self.kind == "exchange":
                yield pb.ExchangeRequest(publish=pb.NumberedPublish(number=number, publish=publish))
            else:
                yield pb.IngestRequest(publish=publish)
            self.begun.set()
            try:
                self.end.get(timeout=0.002 if self.busy else 60)
                return
            except queue.Empty:
                pass

    def follow(self, call):
        try:
            if self.kind == "exchange":
                for _ in call:
                    pass
            else:
                call.result()
        except grpc.RpcError as error:
            self.error = error
        self.end.put(None)

    def outcome(self):
        self.thread.join(30)
        assert self.error is not None, "it ends, and not well"
        ours = any(key == "grpc-status-details-bin" for key, _ in self.error.trailing_metadata() or ())
        return self.error.code(), ours


@pytest.fixture
def balanced(tmp_path):
    server, port = Server(tmp_path / "data"), free_port()
    (tmp_path / "haproxy.cfg").write_text(shipped(server, port))
    with running(["haproxy", "-db", "-f", tmp_path / "haproxy.cfg"], tmp_path / "haproxy.log"):
        await_port(port)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rpc.StreamServiceStub(channel)
            stub.target = f"127.0.0.1:{port}"
            publish(stub)
            yield server, stub
    server.kill9()


def publish(stub):
    """Publishes once HAProxy has found the replica."""
    request = pb.PublishRequest(topic="t", records=[pb.Record(value=b"first")])
    deadline = time.monotonic() + 60
    while True:
        try:
            return stub.Publish(request, timeout=5)
        except grpc.RpcError as error:
            assert error.code() == grpc.StatusCode.UNAVAILABLE and time.monotonic() < deadline, error
            time.sleep(0.1)


def opened(stub):
    calls = [Call(stub, kind, busy) for kind, busy in CALLS for _ in range(4)]
    for call in calls:
        assert call.begun.wait(30)
    # The answer to a later publish shows that all calls have reached the server.
    publish(stub)
    return calls


def test_a_drain_is_unavailable_with_its_reason_for_every_open_stream(balanced):
    server, stub = balanced
    calls = opened(stub)
    assert server.stop() == 0
    for call in calls:
        assert call.outcome() == (grpc.StatusCode.UNAVAILABLE, True), (call.kind, call.busy, call.error)


def test_a_crash_falls_under_the_retry_rule_for_every_open_stream(balanced):
    server, stub = balanced
    calls = opened(stub)
    server.kill9()
    for call in calls:
        call.outcome()
        assert is_interruption(call.error), (call.kind, call.busy, call.error)


def test_without_a_replica_every_kind_of_call_is_unavailable(balanced):
    server, stub = balanced
    server.kill9()
    for kind, busy in CALLS:
        call = Call(stub, kind, busy)
        assert call.outcome()[0] == grpc.StatusCode.UNAVAILABLE, (call.kind, call.busy, call.error)
    request = pb.PublishRequest(topic="t", records=[pb.Record(value=b"x")])
    for call in (lambda: stub.Publish(request), lambda: list(stub.Subscribe(pb.SubscribeRequest(topic="t")))):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, refused.value


def test_the_command_line_waits_behind_the_balancer_for_a_replica(balanced):
    """It waits at its first call as well, when the balancer has no replica."""
    server, stub = balanced
    server.kill9()
    call = Call(stub, "exchange", False)
    assert call.outcome()[0] == grpc.StatusCode.UNAVAILABLE
    command = [BINARY, "--server", f"http://{stub.target}"]
    publish = subprocess.Popen([*command, "publish", "later"], stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    publish.stdin.write(b"a line\n")
    publish.stdin.close()
    assert b"interrupted, will continue" in publish.stderr.readline(), "it has met the balancer"
    server.start()
    assert publish.wait(60) == 0, publish.stderr.read()
    done = subprocess.run([*command, "subscribe", "later"], capture_output=True, timeout=60, check=False)
    assert done.stdout == b"a line\n", done
