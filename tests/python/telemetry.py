"""Fixtures of the telemetry tests: a server that exports everything at once, the receiver, and the spans it received."""

import os
import re
import sysconfig
from pathlib import Path

import pytest
from conftest import Server
from real import await_port, free_port, running


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
    yield from receiving(tmp_path, "traces")


@pytest.fixture
def log_receiver(tmp_path, observed):
    yield from receiving(tmp_path, "logs")


def receiving(tmp_path, signal):
    """Runs a receiver that prints what it receives of this signal."""
    agent = Path(sysconfig.get_paths()["purelib"]) / "rotel" / "rotel-agent"
    address = os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"].removeprefix("http://")
    command = [agent, "start", "--exporter", "blackhole", "--debug-log", signal]
    command += ["--debug-log-verbosity", "detailed", "--otlp-grpc-endpoint", address]
    command += ["--otlp-http-endpoint", f"127.0.0.1:{free_port()}"]
    path = tmp_path / "rotel.log"
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "RUST_"))}
    with running(command, path, env=clean):
        await_port(int(address.rsplit(":", 1)[1]))
        yield path


def spans(receiver):
    """All spans that the receiver printed, without duplicates: fields by name, and links."""
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
