"""Fixtures of the tests with Jaeger: a server whose traces go through a Collector with deploy's configuration to a Jaeger with
deploy's, and Jaeger's API. Jaeger's binary is a Collector too."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request

import pytest
from conftest import ROOT, Server
from real import await_port, free_port, program, running

CONFIGURATIONS = ROOT / "deploy" / "observability"
SECONDS = 60


class Jaeger:
    """What the API of Jaeger answers."""

    def __init__(self, api, endpoint):
        self.api, self.endpoint = api, endpoint

    def get(self, path):
        with urllib.request.urlopen(self.api + path, timeout=10) as answer:
            return json.load(answer)["data"]

    def trace(self, trace_id, wanted):
        """Returns the spans of a trace as soon as they satisfy `wanted`."""
        return self._eventually(lambda: self._spans(f"/api/traces/{trace_id}"), wanted)

    def search(self, command, wanted=bool):
        """Returns the spans of all traces that a documented command finds, as soon as they satisfy `wanted`."""
        command = command.replace("http://localhost:16686", self.api)

        def ask():
            done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True)
            return spans(json.loads(done.stdout)["data"])

        return self._eventually(ask, wanted)

    def _spans(self, path):
        try:
            return spans(self.get(path))
        except urllib.error.HTTPError as error:
            assert error.code == 404, error.read()
            return []

    @staticmethod
    def _eventually(ask, wanted):
        deadline = time.monotonic() + SECONDS
        while not wanted(found := ask()):
            assert time.monotonic() < deadline, tree(found)
            time.sleep(0.2)
        return found


class Span:
    """A span as the API shows it."""

    def __init__(self, span, processes):
        self.id, self.trace, self.name = span["spanID"], span["traceID"], span["operationName"]
        self.service = processes[span["processID"]]["serviceName"]
        self.start, self.seconds = span["startTime"] / 1e6, span["duration"] / 1e6
        self.tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        references = [(one["refType"], one["traceID"], one["spanID"]) for one in span["references"]]
        # Jaeger merges a parent with a link to the same span. Its page draws the first reference of the trace as the parent.
        self.parent = next((span for kind, trace, span in references if kind == "CHILD_OF" or trace == self.trace), None)
        self.links = [(trace, span) for kind, trace, span in references if kind == "FOLLOWS_FROM"]
        self.kind = self.tags["span.kind"]

    @property
    def end(self):
        return self.start + self.seconds


def spans(traces):
    return [Span(span, trace["processes"]) for trace in traces for span in trace["spans"]]


def outline(spans, parent=None, depth=0):
    """Returns depth and span of each span, parents before their children."""
    ids = {span.id for span in spans}
    for span in sorted(spans, key=lambda span: (span.start, span.id)):
        if (span.parent if span.parent in ids else None) == parent:
            yield depth, span
            yield from outline(spans, span.id, depth + 1)


def tree(spans):
    """Returns the spans as docs/telemetry.md shows them."""
    lines = (("  " * depth + span.name, span) for depth, span in outline(spans))
    return "\n".join(f"{name:<42} {span.service:<14} {span.kind:<9} {span.seconds * 1000:7.1f} ms" for name, span in lines)


@pytest.fixture(scope="module")
def jaeger(tmp_path_factory):
    place = tmp_path_factory.mktemp("jaeger")
    ports = {name: free_port() for name in ("grpc", "http", "received", "query", "query_grpc")}
    there = f"127.0.0.1:{ports['received']}"
    changes = {
        "collector.yaml": {"0.0.0.0:4317": f"127.0.0.1:{ports['grpc']}", "0.0.0.0:4318": f"127.0.0.1:{ports['http']}",
                           "jaeger:4318": there},
        "jaeger.yaml": {"0.0.0.0:4318": there, "0.0.0.0:16686": f"127.0.0.1:{ports['query']}",
                        "0.0.0.0:16685": f"127.0.0.1:{ports['query_grpc']}"},
    }  # fmt: skip
    for name, addresses in changes.items():
        text = (CONFIGURATIONS / name).read_text()
        for address, real in addresses.items():
            assert address in text, "only addresses differ from what compose runs"
            text = text.replace(address, real)
        (place / name).write_text(text)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}

    def run(name):
        return running([program("jaeger"), "--config", place / name], place / f"{name}.log", env=clean)

    with run("jaeger.yaml"), run("collector.yaml"):
        for port in ports.values():
            await_port(port)
        yield Jaeger(f"http://127.0.0.1:{ports['query']}", f"http://127.0.0.1:{ports['grpc']}")


@pytest.fixture
def traced(jaeger, tmp_path, monkeypatch):
    """A server that exports every trace."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", jaeger.endpoint)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")
    server = Server(tmp_path / "data")
    yield server
    server.kill9()
