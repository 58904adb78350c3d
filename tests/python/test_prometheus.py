"""A real Prometheus scrapes a real server under load, and every query of the dashboard and of the rules finds data.
promtool checks the metrics, the rules and the tests of the rules."""

import json
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import grpc
import pytest
from conftest import ROOT, Server
from real import await_port, free_port, metrics, running
from streamway.v1 import group_pb2, group_pb2_grpc, stream_pb2, stream_pb2_grpc

OBSERVABILITY = ROOT / "deploy" / "observability"
RULES = OBSERVABILITY / "prometheus" / "streamway.rules.yml"
# Comparisons that return nothing while no alert fires.
COMPARISON = re.compile(r"(?<![=<>!])\s(==|>|<)\s+[\d. *]+(?=\s|$)")
CONFIGURATION = """
global: {{ scrape_interval: 1s, evaluation_interval: 1s }}
rule_files: [{rules}]
scrape_configs: [{{ job_name: streamway, static_configs: [{{ targets: ["{target}"] }}] }}]
"""


def publish(server, stop):
    with server.channel() as channel:
        stub = stream_pb2_grpc.StreamServiceStub(channel)
        while not stop.is_set():
            stub.Publish(stream_pb2.PublishRequest(topic="orders", records=[stream_pb2.Record(value=b"x" * 100)]))


def subscribe(server, stop):
    with server.channel() as channel:
        request = stream_pb2.SubscribeRequest(topic="orders", boundary=stream_pb2.BOUNDARY_EARLIEST)
        call = stream_pb2_grpc.StreamServiceStub(channel).Subscribe(request)
        threading.Thread(target=lambda: (stop.wait(), call.cancel()), daemon=True).start()
        with pytest.raises(grpc.RpcError):
            for _ in call:
                pass


def work(server, stop):
    """Leases records of a group, and settles none."""
    with server.channel() as channel:
        groups, group = group_pb2_grpc.GroupServiceStub(channel), {"topic": "orders", "name": "workers"}
        first = stream_pb2.PublishRequest(topic="orders", records=[stream_pb2.Record(value=b"first")])
        stream_pb2_grpc.StreamServiceStub(channel).Publish(first)
        groups.CreateGroup(group_pb2.CreateGroupRequest(group=group_pb2.Group(**group)))
        while not stop.wait(0.1):
            groups.Lease(group_pb2.LeaseRequest(topic="orders", group="workers"))


@pytest.fixture
def loaded(tmp_path):
    """A server with a publisher, a subscriber and a worker for the duration of the test."""
    server, stop = Server(tmp_path / "data"), threading.Event()
    threads = [threading.Thread(target=of, args=(server, stop)) for of in (publish, subscribe, work)]
    for thread in threads:
        thread.start()
    yield server
    stop.set()
    for thread in threads:
        thread.join(timeout=30)
    assert server.stop() == 0


def awaited(what, found, seconds=60):
    deadline = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def is_ready(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10):
            return True
    except urllib.error.HTTPError:
        return False


@pytest.fixture
def prometheus(tmp_path, loaded):
    port = free_port()
    (tmp_path / "prometheus.yml").write_text(CONFIGURATION.format(rules=RULES, target=loaded.admin))
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/tsdb"]
    with running([*command, f"--web.listen-address=127.0.0.1:{port}"], tmp_path / "prometheus.log"):
        await_port(port)
        awaited("Prometheus", lambda: is_ready(port))
        yield f"http://127.0.0.1:{port}"


def ask(prometheus, path, **query):
    address = f"{prometheus}/api/v1/{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        return json.load(answer)["data"]


def dashboard_queries():
    dashboard = json.loads((OBSERVABILITY / "grafana" / "streamway.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_query_finds_data_under_load(prometheus):
    awaited("a scrape", lambda: ask(prometheus, "query", query="up == 1")["result"])
    awaited("rules", lambda: all(r["health"] == "ok" for g in ask(prometheus, "rules")["groups"] for r in g["rules"]))
    rules = [rule["query"] for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert len(rules) >= 8
    queries = [query.replace("$__rate_interval", "10s") for query in dashboard_queries()]
    # An alert that does not fire returns nothing, so its operands are queried.
    queries += [part for rule in rules for query in rule.split("\nand\n") for part in [COMPARISON.sub("", query)]]
    for query in queries:
        if "tls_certificate" in query:
            continue  # Absent without TLS.
        awaited(query, lambda query=query: ask(prometheus, "query", query=query)["result"])


def test_promtool_accepts_metrics_rules_and_their_tests(loaded):
    subprocess.run(["promtool", "check", "metrics"], input=metrics(loaded), text=True, check=True)
    subprocess.run(["promtool", "check", "rules", RULES.name], cwd=RULES.parent, check=True)
    subprocess.run(["promtool", "test", "rules", "streamway.rules.test.yml"], cwd=RULES.parent, check=True)


def test_every_alert_has_a_test():
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    tested = (RULES.parent / "streamway.rules.test.yml").read_text()
    fired = set(re.findall(r"alertname: (\w+)\s+exp_alerts: \[ \{ exp_labels", tested))
    assert alerts and alerts == fired, alerts ^ fired
