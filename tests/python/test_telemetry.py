"""Telemetry as an independent OpenTelemetry receiver sees it."""

import os
import re
import subprocess
import time
import urllib.error
import urllib.request

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.grpc import client_interceptor
from opentelemetry.instrumentation.grpc.grpcext import intercept_channel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from real import await_port, free_port, metrics, nats_server, running
from streamway.v1 import group_pb2, group_pb2_grpc, stream_pb2, stream_pb2_grpc
from telemetry import log_receiver, named, observed, receiver, spans  # noqa: F401 (fixtures)

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


def eventually(receiver, wanted):
    deadline = time.monotonic() + 20
    while not (found := [span for span in spans(receiver) if wanted(span)]):
        assert time.monotonic() < deadline, receiver.read_text()
        time.sleep(0.1)
    return found[0]


def is_open(receiver, opened):
    """Returns true while the call of this span has not been exported."""
    return opened["Parent ID"] not in [span["ID"] for span in spans(receiver)]


def produce(server, topic):
    """Publishes by grpcio under an OpenTelemetry SDK; returns the ids of the trace and of the span."""
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
    """One trace leads from the producer to the consumer, and calls that a drain ended are in it."""
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


def test_each_handling_by_a_group_is_in_the_trace_with_its_delivery(receiver, observed):
    server = observed()
    trace, order = produce(server, "orders")
    with server.channel() as channel:
        groups = group_pb2_grpc.GroupServiceStub(channel)
        groups.CreateGroup(group_pb2.CreateGroupRequest(group=group_pb2.Group(topic="orders", name="mail")))
        for _ in range(2):
            ask = group_pb2.LeaseRequest(topic="orders", group="mail", wait=Duration(seconds=10))
            (lease,) = groups.Lease(ask).leases
            failed = [group_pb2.Nack(range=group_pb2.OffsetRange(start=0, end=1))]
            groups.Settle(group_pb2.SettleRequest(settlements=[group_pb2.Settlement(token=lease.token, nacks=failed)]))
    assert server.stop() == 0
    client = next(span for span in spans(receiver) if span["Parent ID"] == order)
    calls = [span["ID"] for span in spans(receiver) if span["Name"] == "streamway.v1.GroupService/Lease"]
    leases = sorted(
        (span for span in spans(receiver) if span["Name"] == "lease orders"), key=lambda span: span["streamway.delivery"]
    )
    assert [span["streamway.delivery"] for span in leases] == ["Int(1)", "Int(2)"]
    for span in leases:
        assert span["messaging.consumer.group.name"] == "Str(mail)" and span["Trace ID"] == trace
        assert span["Parent ID"] == span["links"][0] == client["ID"] and span["links"][1] in calls


def test_errors_carry_status_and_reason(receiver, observed):
    server = observed()
    with server.channel() as channel, pytest.raises(grpc.RpcError):
        stream_pb2_grpc.StreamServiceStub(channel).Publish(stream_pb2.PublishRequest(topic="Not A Name"))
    assert server.stop() == 0
    span = named(receiver, "streamway.v1.StreamService/Publish")
    assert span["Status code"] == "STATUS_CODE_ERROR"
    assert span["rpc.response.status_code"] == span["error.type"] == "Str(INVALID_ARGUMENT)"
    assert span["streamway.error.reason"].startswith("Str(") and len(span["streamway.error.reason"]) > 5


def test_a_plain_request_is_a_span_of_http_and_the_parent_of_its_batch(receiver, observed):
    server = observed()
    url = f"http://{server.http}/v1/topics/orders/records"
    headers = {"content-type": "application/octet-stream", "traceparent": f"00-{TRACE}-{PARENT}-01"}
    urllib.request.urlopen(urllib.request.Request(url, b"x", headers), timeout=20).close()
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://{server.http}/nothing", timeout=20)
    assert server.stop() == 0
    span = named(receiver, "POST /v1/topics/{topic}/records")
    assert (span["Trace ID"], span["Parent ID"], span["Kind"]) == (TRACE, PARENT, "SPAN_KIND_SERVER")
    assert span["http.route"] == "Str(/v1/topics/{topic}/records)"
    assert span["url.path"] == "Str(/v1/topics/orders/records)"
    assert (span["http.request.method"], span["url.scheme"]) == ("Str(POST)", "Str(http)")
    assert span["http.response.status_code"] == "Int(200)"
    batch = named(receiver, "publish orders")
    assert (batch["Trace ID"], batch["Parent ID"]) == (TRACE, span["ID"])
    missing = named(receiver, "GET")
    assert missing["http.response.status_code"] == "Int(404)" and "error.type" not in missing


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


def test_an_open_stream_and_a_refused_publish_are_found(receiver, observed):
    server = observed()
    sampled = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    load(server)
    with server.channel() as channel:
        stub = stream_pb2_grpc.StreamServiceStub(channel)
        following = stub.Subscribe(stream_pb2.SubscribeRequest(topic="orders"), metadata=sampled)
        late = stream_pb2.PublishRequest(
            topic="orders", records=[stream_pb2.Record(value=b"x")], expected_offset=77
        )
        with pytest.raises(grpc.RpcError):
            stub.Publish(late, metadata=sampled)
        opened = eventually(receiver, lambda span: span["Name"] == "stream opened" and is_open(receiver, span))
        assert opened["Trace ID"] == TRACE
        eventually(receiver, lambda span: span.get("error.type") == "Str(expected_offset)")
        following.cancel()
    assert server.stop() == 0


HAPROXY = """
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend collector
    bind 127.0.0.1:{port} ssl crt {pem} alpn h2
    http-request deny unless {{ req.hdr(x-api-key) -m str secret }}
    http-request deny unless {{ req.hdr(grpc-encoding) -m str gzip }}
    default_backend receiver
backend receiver
    server receiver {receiver} proto h2
"""


def test_a_collector_behind_tls_that_asks_for_a_header_and_gzip(receiver, observed, tmp_path, monkeypatch):
    key, cert, pem, port = tmp_path / "key", tmp_path / "cert", tmp_path / "pem", free_port()
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost"
    request += f" -addext subjectAltName=DNS:localhost -addext basicConstraints=CA:FALSE -keyout {key} -out {cert}"
    subprocess.run(request.split(), check=True, capture_output=True)
    pem.write_text(key.read_text() + cert.read_text())
    address = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, pem=pem, receiver=address))
    with running(["haproxy", "-db", "-f", config], tmp_path / "haproxy.log"):
        await_port(port)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"https://localhost:{port}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(cert))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-api-key=secret")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        server = observed()
        load(server)
        eventually(receiver, lambda span: span["Name"] == "publish orders")
        assert server.stop() == 0


@pytest.mark.parametrize("where", ["all", "stderr"])
def test_the_audit_log_is_exported_with_its_trace_where_that_is_asked_for(log_receiver, observed, where):
    server = observed("--audit-log", where)
    load(server)
    assert server.stop() == 0
    scopes = log_receiver.read_text().split("InstrumentationScope ")
    audit = [scope for scope in scopes if scope.startswith("streamway::audit")]
    if where == "stderr":
        assert len(scopes) > 1 and not audit, audit
        return
    (record,) = audit[0].split("LogRecord #")[1:]
    fields = dict(re.findall(r"^ *-> (\w+): Str\((.*)\)$", record, re.M))
    assert (fields["action"], fields["outcome"], fields["resource"]) == ("topic.create", "done", "orders"), record
    assert '"tail":0' in fields["after"] and "before" not in fields, record
    # It belongs to the trace of the publish that created the topic.
    assert re.search(rf"Trace ID +: {TRACE}", record) and re.search(r"Span ID +: [0-9a-f]{16}", record), record
