"""Telemetry seen by others: promtool, and an OpenTelemetry receiver that nobody here wrote."""

import json
import os
import re
import socket
import subprocess
import sysconfig
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import ROOT, Server
from streamway.v1 import stream_pb2, stream_pb2_grpc

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
OBSERVABILITY = ROOT / "deploy" / "observability"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def metrics(server):
    with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=10) as answer:
        return answer.read().decode()


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

    def start():
        servers.append(Server(tmp_path / "data"))
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
    host, port = address.split(":")
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                break
        time.sleep(0.05)
    yield path
    process.kill()
    process.wait(timeout=10)


def test_a_trace_leads_from_the_producer_to_the_consumer_and_arrives_before_exit(receiver, observed):
    server = observed()
    load(server)
    assert server.stop() == 0
    seen = receiver.read_text()
    # The call, the publish and the delivery are in the producer's trace, and the delivery links to it.
    assert seen.count(TRACE) >= 4, seen
    for name in ("streamway.v1.StreamService/Publish", "publish orders", "deliver orders"):
        assert name in seen, name


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


def test_promtool_accepts_metrics_rules_and_their_tests(server):
    load(server)
    subprocess.run(["promtool", "check", "metrics"], input=metrics(server), text=True, check=True)
    rules = OBSERVABILITY / "prometheus"
    subprocess.run(["promtool", "check", "rules", "streamway.rules.yml"], cwd=rules, check=True)
    subprocess.run(["promtool", "test", "rules", "streamway.rules.test.yml"], cwd=rules, check=True)


def test_dashboards_and_rules_name_only_metrics_that_are_emitted(server):
    load(server)
    text = metrics(server)
    known = set(re.findall(r"^# TYPE (\S+)", text, re.M)) | {"streamway_tls_certificate_expiry_seconds",
        "streamway_subscription_lag_worst", "streamway_subscription_lag_worst_duration_seconds"}
    dashboard = json.loads((OBSERVABILITY / "grafana" / "streamway.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queries += re.findall(r"expr: (?:>\n)?((?:.+\n)(?: {10,}.+\n)*)", (OBSERVABILITY / "prometheus" / "streamway.rules.yml").read_text())
    used = {name for query in queries for name in re.findall(r"\b(?:streamway|rpc_server|process)_[a-z_]+", query)}
    used = {re.sub(r"_(bucket|count|sum)$", "", name) for name in used}
    assert len(used) > 20
    assert used <= known, used - known
