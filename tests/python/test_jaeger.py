"""Traces as Jaeger's API gives them, through a Collector, with the configurations of deploy/observability. docs/telemetry.md
shows them, and how to find a slow publish, a lagging subscriber and a cut stream, which are made here for real."""

import contextlib
import json
import os
import re
import socket
import subprocess
import threading
import time

from conftest import BINARY, ROOT
from jaeger import jaeger, outline, traced, tree  # noqa: F401 (fixtures)
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from readme import blocks
from real import metrics, running
from streamway.v1 import stream_pb2, stream_pb2_grpc

SUBSCRIBE = "streamway.v1.StreamService/Subscribe"
SECONDS = 60


@contextlib.contextmanager
def service(server, jaeger, name, step):
    """A Python service that works under a span, with a stub whose calls are traced by OpenTelemetry."""
    provider = TracerProvider(resource=Resource({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(jaeger.endpoint, insecure=True)))
    tracer = provider.get_tracer(name)
    with server.channel() as plain, tracer.start_as_current_span(step, context=Context()) as span:
        channel = intercept_channel(plain, client_interceptor(tracer_provider=provider))
        yield stream_pb2_grpc.StreamServiceStub(channel), f"{span.context.trace_id:032x}"
    provider.shutdown()


def publish(server, jaeger, topic, *values):
    """Publishes batches of one record under one trace, and returns its id."""
    with service(server, jaeger, "shop", "place order") as (stub, trace):
        for value in values:
            stub.Publish(stream_pb2.PublishRequest(topic=topic, records=[stream_pb2.Record(value=value)]))
    return trace


def consume(server, jaeger, name, topic):
    """Reads one record, and returns the id of the consumer's trace."""
    with service(server, jaeger, name, "handle orders") as (stub, trace):
        limit = stream_pb2.ReadLimit(max_records=1)
        request = stream_pb2.SubscribeRequest(topic=topic, boundary=stream_pb2.BOUNDARY_EARLIEST, limit=limit)
        assert len(next(stub.Subscribe(request)).batches) == 1
    return trace


def named(spans, name):
    return [span for span in spans if span.name == name]


def documented(heading):
    """The commands and outputs below a heading of docs/telemetry.md."""
    return blocks("docs/telemetry.md", heading)


def outline_of(text):
    """Depth, name, service and kind of each line of a documented trace."""
    lines = re.findall(r"^( *)(\S.*?) {2,}(\S+) +(\w+) +[\d.]+ ms", text, re.MULTILINE)
    return [(len(indent) // 2, *rest) for indent, *rest in lines]


def test_a_trace_leads_from_a_producer_to_each_consumer(jaeger, traced):
    trace = publish(traced, jaeger, "orders", b"book")
    consumers = {consume(traced, jaeger, name, "orders"): name for name in ("billing", "mailer")}
    spans = jaeger.trace(trace, lambda spans: len(spans) == 9)
    print(tree(spans))
    ((_, shown),) = documented("### One trace")
    assert [(depth, span.name, span.service, span.kind) for depth, span in outline(spans)] == outline_of(shown)
    for deliver in named(spans, "deliver orders"):
        followed = jaeger.trace(deliver.links[1][0], lambda spans: len(spans) == 4)
        (subscribe,) = [span for span in followed if span.id == deliver.links[1][1]]
        assert subscribe.name == SUBSCRIBE and subscribe.kind == "server"
        client = next(span for span in followed if span.id == subscribe.parent)
        assert client.service == consumers.pop(deliver.links[1][0])
    assert not consumers, "each consumer has its delivery"


def test_the_documented_span_is_what_the_api_gives(jaeger, traced):
    trace = publish(traced, jaeger, "orders", b"book")
    consume(traced, jaeger, "billing", "orders")
    jaeger.trace(trace, lambda spans: len(spans) == 8)
    (whole,) = jaeger.get(f"/api/traces/{trace}")
    print(json.dumps(whole))
    (real,) = [span for span in whole["spans"] if span["operationName"] == "deliver orders"]
    text = (ROOT / "docs" / "telemetry.md").read_text()
    shown = json.loads(re.search(r"^```json\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[1])
    assert shown.keys() <= real.keys()
    assert [one["refType"] for one in shown["references"]] == [one["refType"] for one in real["references"]]
    assert shown["references"][0]["traceID"] == shown["traceID"] != shown["references"][1]["traceID"]
    assert all(tag in real["tags"] for tag in shown["tags"])


@contextlib.contextmanager
def slow_syncs(server, tmp_path, milliseconds):
    log = tmp_path / "strace.log"
    inject = f"inject=fdatasync:delay_enter={milliseconds}ms"
    with running(["strace", "-f", "-o", os.devnull, "-e", inject, "-p", str(server.process.pid)], log) as strace:
        while "attached" not in log.read_text():
            assert strace.poll() is None, log.read_text()
            time.sleep(0.02)
        yield


def test_a_slow_publish_is_found(jaeger, traced, tmp_path):
    publish(traced, jaeger, "orders", b"creates the topic")
    with slow_syncs(traced, tmp_path, 300):
        trace = publish(traced, jaeger, "orders", b"book")
    ((command, shown),) = documented("### A slow publish")
    found = jaeger.search(command, lambda spans: len([span for span in spans if span.trace == trace]) == 7)
    spans = [span for span in found if span.trace == trace]
    print(tree(spans))
    assert [(depth, span.name, span.service, span.kind) for depth, span in outline(spans)] == outline_of(shown)
    (sync,), (whole,) = named(spans, "storage sync"), named(spans, "publish orders")
    assert 0.3 <= sync.seconds <= whole.seconds


def worst_lag_seconds(server, topic):
    name = "streamway_subscription_lag_worst_duration_seconds"
    found = re.search(rf'^{name}{{topic="{topic}"}} ([\d.e+-]+)', metrics(server), re.MULTILINE)
    return float(found[1]) if found else 0


def test_a_lagging_subscriber_is_found(jaeger, traced):
    # More than the buffers between the server and the subscriber hold.
    value, count = bytes(900_000), 24
    with service(traced, jaeger, "billing", "handle orders") as (stub, consumer):
        stub.Publish(stream_pb2.PublishRequest(topic="orders", records=[stream_pb2.Record(value=b"first")]))
        limit = stream_pb2.ReadLimit(max_records=1 + count)
        request = stream_pb2.SubscribeRequest(topic="orders", boundary=stream_pb2.BOUNDARY_EARLIEST, limit=limit)
        following = stub.Subscribe(request)
        next(following)
        trace = publish(traced, jaeger, "orders", *[value] * count)
        deadline = time.monotonic() + SECONDS
        while worst_lag_seconds(traced, "orders") < 1.5:
            assert time.monotonic() < deadline, metrics(traced)
            time.sleep(0.1)
        assert sum(len(message.batches) for message in following) == count
    ((command, shown),) = documented("### A lagging subscriber")
    found = jaeger.search(command, lambda spans: len([s for s in spans if s.trace == trace and s.name == "deliver orders"]) == count)
    late = max((span for span in found if span.name == "deliver orders"), key=lambda span: span.seconds)
    assert late.trace == trace and late.seconds > 1
    client = next(span for span in found if span.id == late.parent)
    call = next(span for span in found if span.parent == client.id and span.kind == "server")
    stored = next(span for span in found if span.parent == call.id)
    print(tree([client, call, stored, late]))
    assert stored.end < late.end
    expected = [(depth, span.name, span.service, span.kind) for depth, span in outline([client, call, stored, late])]
    assert expected == outline_of(shown)
    assert late.links[1][0] == consumer, "the link names the subscriber's call"


class Proxy:
    """A TCP proxy to a server, whose connections can be cut."""

    def __init__(self, target):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.target, self.open = target, []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                host, port = self.target.rsplit(":", 1)
                far = socket.create_connection((host, int(port)))
                self.open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)

    def cut(self):
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def test_a_cut_stream_is_found(jaeger, traced):
    proxy = Proxy(traced.listen)
    publish(traced, jaeger, "orders", b"one")
    command = [BINARY, "subscribe", "orders", "--follow", "--from", "earliest", "--server", f"http://{proxy.address}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        limit = threading.Timer(SECONDS, follower.kill)
        limit.start()
        assert follower.stdout.readline() == "one\n"
        proxy.cut()
        publish(traced, jaeger, "orders", b"two")
        assert follower.stdout.readline() == "two\n", "it resumed"
        follower.terminate()
        follower.wait()
        limit.cancel()
    ((command, shown),) = documented("### A cut stream")
    spans = jaeger.search(command, lambda spans: len(spans) == 7)
    print(tree(spans))
    assert [(depth, span.name, span.service, span.kind) for depth, span in outline(spans)] == outline_of(shown)
    cut, resumed = (span for _, span in outline(spans) if span.name == SUBSCRIBE and span.kind == "client")
    assert cut.tags["error.type"] == "UNAVAILABLE" and "error" not in resumed.tags
    assert cut.end <= resumed.start
    (server,) = [span for span in spans if span.parent == cut.id]
    assert server.tags["rpc.response.status_code"] == "CANCELLED" and "error" not in server.tags


def test_a_drain_is_told_from_a_cut(jaeger, traced):
    with traced.channel() as channel:
        following = stream_pb2_grpc.StreamServiceStub(channel).Subscribe(stream_pb2.SubscribeRequest(topic="drained"))
        next(following)
        assert traced.stop() == 0
    tags = '{"streamway.error.reason":"SERVER_DRAINING"}'
    command = f"curl -sG http://localhost:16686/api/traces -d service=streamway --data-urlencode 'tags={tags}'"
    (call,) = named(jaeger.search(command), SUBSCRIBE)
    assert call.tags["error.type"] == call.tags["rpc.response.status_code"] == "UNAVAILABLE"
