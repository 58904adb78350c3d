"""Collectors that are away, hang, refuse or are slow: publishing continues, and lost telemetry is counted."""

import contextlib
import re
import socket
import threading
import time
from concurrent import futures

import grpc
import pytest
from conftest import Server
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from real import free_port, metrics
from streamway.v1 import stream_pb2, stream_pb2_grpc

PUBLISHES = 200


def dropped(server, signal):
    found = re.findall(rf'^streamway_telemetry_dropped_total{{.*signal="{signal}".*}} (\d+)', metrics(server), re.M)
    return sum(map(int, found))


@contextlib.contextmanager
def away(port):
    yield


@contextlib.contextmanager
def hanging(port):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
        listener.listen()
        yield


@contextlib.contextmanager
def answering(port, answer):
    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Handler()])
    assert server.add_insecure_port(f"127.0.0.1:{port}") == port
    server.start()
    yield
    server.stop(0).wait()


def refusing(port):
    return answering(port, lambda request, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "no"))


def slow(port):
    answer = trace_service_pb2.ExportTraceServiceResponse().SerializeToString()
    return answering(port, lambda request, context: (threading.Event().wait(0.5), answer)[1])


@pytest.mark.parametrize(
    ("collector", "signals"),
    [(away, ["traces", "logs", "metrics"]), (hanging, ["traces", "logs", "metrics"]),
     (refusing, ["traces", "logs", "metrics"]), (slow, ["traces", "logs"])],
)
def test_publishing_goes_on_and_what_is_lost_is_counted(tmp_path, monkeypatch, collector, signals):
    port = free_port()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1000")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "200")
    for processor in ("BSP", "BLRP"):
        monkeypatch.setenv(f"OTEL_{processor}_SCHEDULE_DELAY", "100")
        monkeypatch.setenv(f"OTEL_{processor}_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv(f"OTEL_{processor}_MAX_EXPORT_BATCH_SIZE", "16")
    monkeypatch.setenv("RUST_LOG", "info,streamway=debug")
    with collector(port):
        server = Server(tmp_path / "data")
        try:
            with server.channel() as channel:
                stub = stream_pb2_grpc.StreamServiceStub(channel)
                begun = time.monotonic()
                for _ in range(PUBLISHES):
                    stub.Publish(stream_pb2.PublishRequest(topic="orders", records=[stream_pb2.Record(value=b"x")]))
                print(f"{PUBLISHES} publishes took {time.monotonic() - begun:.2f} s")
            deadline = time.monotonic() + 60
            while not all(dropped(server, signal) > 0 for signal in signals):
                assert time.monotonic() < deadline, metrics(server)
                time.sleep(0.2)
            assert server.stop() == 0
        finally:
            server.kill9()
