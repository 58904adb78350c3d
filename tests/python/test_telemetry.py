"""Telemetry seen by an OpenTelemetry receiver that nobody here wrote, which also goes away, hangs and refuses."""

import os
import re
import socket
import subprocess
import sysconfig
import time
from pathlib import Path

import grpc
import pytest
from conftest import Server
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from real import await_port, free_port, metrics, nats_server
from streamway.v1 import stream_pb2, stream_pb2_grpc

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


def exported(server, signal):
    found = re.search(rf'streamway_telemetry_exported_total{{signal="{signal}"}} (\d+)', metrics(server))
    return int(found[1])


def load(server):
    with server.channel() as channel:
        stub = stream_pb2_grpc.StreamServiceStub(channel)
        records = [stream_pb2.Record(value=b"x")]
        request = stream_pb2.PublishRequest(topic="orders", records=records)
        stub.Publish(request, metadata=(("traceparent", f"00-{TRACE}-{PARENT}-01"),))
        limit = stream_pb2.ReadLimit(max_records=1)
        boundary = stream_pb2.BOUNDARY_EARLIEST
        return list(stub.Subscribe(stream_pb2.SubscribeRequest(topic="orders", boundary=boundary, limit=limit)))


@pytest.fixture
def observed(tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "500")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    monkeypatch.setenv("OTEL_BLRP_SCHEDULE_DELAY", "200")
    monkeypatch.setenv("RUST_LOG", "trace")
    monkeypatch.setenv("TOKIO_WORKER_THREADS", "1")
    servers = []

    def start(*args):
        servers.append(Server(tmp_path / "data", *args))
        return servers[-1]

    yield start
    for server in servers:
        server.kill9()


@pytest.fixture
def receiver(tmp_path, observed):
    agent = Path(sysconfig.get_paths()["purelib"]) / "rotel" / "rotel-agent"
    address = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")
    command = [agent, "start", "--exporter", "blackhole", "--debug-log", "traces"]
    command += ["--debug-log-verbosity", "detailed", "--otlp-grpc-endpoint", address]
    command += ["--otlp-http-endpoint", f"127.0.0.1:{free_port()}"]
    path = tmp_path / "rotel.log"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "RUST_"))}
    with path.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=clean)
    await_port(int(address.rsplit(":", 1)[1]))
    yield path
    process.kill()
    process.wait(timeout=10)


def spans(receiver):
    """Every span that the receiver printed, once: its fields by name, and what it links to."""
    found = {}
    for text in receiver.read_text().split("Span #")[1:]:
        fields = dict(re.findall(r"^ *(?:-> )?([\w. ]+?) *: (.*)$", text.split("Links:")[0], re.M))
        fields["links"] = re.findall(r"-> ID: (\w+)", text)
        found[fields["ID"]] = fields
    return list(found.values())


def named(receiver, name):
    matching = [span for span in spans(receiver) if span["Name"] == name]
    assert matching, (name, receiver.read_text())
    return matching[0]


def produce(server, topic):
    """A publish by grpcio under an OpenTelemetry SDK of its own: the ids of its trace and of its span."""
    exporter = OTLPSpanExporter(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"], insecure=True)
    provider = TracerProvider(resource=Resource({"service.name": "shop"}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    with server.channel() as plain, provider.get_tracer("shop").start_as_current_span("place order") as span:
        channel = intercept_channel(plain, client_interceptor(tracer_provider=provider))
        request = stream_pb2.PublishRequest(topic=topic, records=[stream_pb2.Record(value=b"x")])
        stream_pb2_grpc.StreamServiceStub(channel).Publish(request)
    provider.shutdown()
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def consume(server, topic):
    with server.channel() as channel:
        limit = stream_pb2.ReadLimit(max_records=1)
        request = stream_pb2.SubscribeRequest(topic=topic, boundary=stream_pb2.BOUNDARY_EARLIEST, limit=limit)
        return list(stream_pb2_grpc.StreamServiceStub(channel).Subscribe(request))


def check_trace(receiver, topic, trace, order, steps):
    """One trace from the producer's code to the consumer; what the drain ended is there too."""
    client = next(span for span in spans(receiver) if span["Parent ID"] == order)
    call = next(span for span in spans(receiver) if span["Parent ID"] == client["ID"] and span["Kind"].endswith("SERVER"))
    publish, deliver = named(receiver, f"publish {topic}"), named(receiver, f"deliver {topic}")
    subscribe = named(receiver, "streamway.v1.StreamService/Subscribe")
    assert publish["Parent ID"] == call["ID"]
    for step in steps:
        assert named(receiver, step)["Parent ID"] == publish["ID"], step
    assert deliver["Parent ID"] == client["ID"]
    assert deliver["links"] == [client["ID"], subscribe["ID"]]
    assert {span["Trace ID"] for span in (client, call, publish, deliver)} == {trace}


def test_a_trace_leads_from_the_producer_to_the_consumer_and_arrives_before_exit(receiver, observed):
    server = observed()
    trace, order = produce(server, "orders")
    consume(server, "orders")
    assert server.stop() == 0
    check_trace(receiver, "orders", trace, order, ["storage queue", "storage write", "storage sync"])


def test_the_steps_of_jetstream_are_in_the_trace(receiver, observed, tmp_path):
    with nats_server(tmp_path) as url:
        server = observed("--engine", "jetstream", "--nats-url", url, "--nats-replicas", "1")
        trace, order = produce(server, "orders")
        consume(server, "orders")
        assert server.stop() == 0
    check_trace(receiver, "orders", trace, order, ["storage queue", "storage append"])


def test_errors_carry_status_and_reason(receiver, observed):
    server = observed()
    with server.channel() as channel, pytest.raises(grpc.RpcError):
        stream_pb2_grpc.StreamServiceStub(channel).Publish(stream_pb2.PublishRequest(topic="Not A Name"))
    assert server.stop() == 0
    span = named(receiver, "streamway.v1.StreamService/Publish")
    assert span["Status code"] == "STATUS_CODE_ERROR"
    assert span["rpc.response.status_code"] == span["error.type"] == "Str(INVALID_ARGUMENT)"
    assert span["streamway.error.reason"].startswith("Str(") and len(span["streamway.error.reason"]) > 5


def test_exporting_at_trace_level_makes_nothing_to_export(receiver, observed):
    server = observed()
    load(server)
    deadline = time.monotonic() + 20
    while exported(server, "traces") == 0 or exported(server, "logs") == 0:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    before = [exported(server, signal) for signal in ("traces", "logs")]
    pushed = exported(server, "metrics")
    while exported(server, "metrics") < pushed + 500:
        time.sleep(0.1)
    assert [exported(server, signal) for signal in ("traces", "logs")] == before
    assert server.stop() == 0


@pytest.mark.parametrize("hangs", [True, False])
def test_a_collector_that_is_away_or_hangs_costs_only_what_is_dropped(observed, hangs):
    with socket.socket() as hanging:
        if hangs:
            hanging.bind(("127.0.0.1", int(os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].rsplit(":", 1)[1])))
            hanging.listen()
        server = observed()
        load(server)
        begun = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - begun < 5
