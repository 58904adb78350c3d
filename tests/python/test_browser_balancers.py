"""Event streams and gRPC-Web through the shipped configurations of nginx, Envoy and HAProxy, in front of three replicas on one
JetStream. A real Chromium follows through each of them at once, so that all see the same restarts."""

import itertools
import json
import re
import subprocess
import threading
import urllib.error
import urllib.request

import pytest
from browser import SECONDS, chromium, eventually  # noqa: F401 (a fixture)
from conftest import ROOT, Server
from real import await_port, free_port, nats_server, running
from test_crds import NODE
from test_grpc_web import PACKAGES, descriptors

DEPLOY = ROOT / "deploy"
NAMES = ["envoy", "haproxy", "nginx"]
FOLLOW = """
const follow = topic => {
  const source = new EventSource(`/v1/topics/${topic}/records` + (topic === 'busy' ? '?from=earliest' : ''));
  const seen = { got: [], lost: 0, open: 0 };
  source.onmessage = event => seen.got.push(JSON.parse(event.data).value);
  source.onerror = () => seen.lost++;
  source.onopen = () => seen.open++;
  return seen;
};
self.followed = { busy: follow('busy'), quiet: follow('quiet') };"""


def haproxy(place, servers, port):
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text().replace(" resolvers system init-addr last,libc,none", "")
    text = text.replace("bind :50051 proto h2", f"bind 127.0.0.1:{free_port()} proto h2")
    text = text.replace("bind :8080\n", f"bind 127.0.0.1:{port}\n").replace("127.0.0.1:9901", f"127.0.0.1:{free_port()}")
    text = text.replace(" port 8081", "")
    for number, server in enumerate(servers, 1):
        check = f"port {server.admin.split(':')[1]}"
        text = text.replace(f"streamway-{number}:50051", f"{server.listen} {check}")
        text = text.replace(f"streamway-{number}:8080", f"{server.http} {check}")
    (place / "haproxy.cfg").write_text(text)
    return ["haproxy", "-db", "-f", place / "haproxy.cfg"]


def nginx(place, servers, port):
    text = (DEPLOY / "nginx" / "nginx.conf").read_text().replace("/tmp/", f"{place}/")
    # Instead of a name with three addresses.
    for name, of in (("streamway:50051", "listen"), ("streamway:8080", "http")):
        group = "".join(f"server {getattr(server, of)}; " for server in servers)
        text = text.replace(f"set $replicas {name};", f"set $replicas {of};")
        text = text.replace("    access_log off;", f"    access_log off;\n    upstream {of} {{ {group}}}", 1)
    text = text.replace("127.0.0.1:9901", f"127.0.0.1:{free_port()}")
    (place / "nginx.conf").write_text("daemon off;\n" + text)
    (place / "listen.conf").write_text(f"listen 127.0.0.1:{free_port()} http2;\n")
    (place / "listen-http.conf").write_text(f"listen 127.0.0.1:{port};\n")
    return ["nginx", "-c", place / "nginx.conf", "-e", "stderr"]


def envoy(place, servers, port):
    text = (DEPLOY / "envoy" / "envoy.yaml").read_text().replace("port_value: 9901", f"port_value: {free_port()}")
    text = text.replace("{address: 0.0.0.0, port_value: 8080}", f"{{address: 127.0.0.1, port_value: {port}}}")
    text = text.replace("{address: 0.0.0.0, port_value: 50051}", f"{{address: 127.0.0.1, port_value: {free_port()}}}")
    for number, server in enumerate(servers, 1):
        for own, bound in ((50051, server.listen), (8080, server.http)):
            # The port of the health check stands on the next line.
            pattern = rf"address: streamway-{number}, port_value: {own}\b(.*\n.*port_value: )8081"
            host, at = bound.split(":")
            text = re.sub(pattern, rf"address: {host}, port_value: {at}\g<1>{server.admin.split(':')[1]}", text)
    (place / "envoy.yaml").write_text(text)
    find = "source tests/tools.sh && envoy_binary"
    found = subprocess.run(["bash", "-c", find], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()
    return [found, "-c", place / "envoy.yaml", "--use-dynamic-base-id", "--concurrency", "1", "-l", "warning"]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """Three replicas, and the addresses of the balancers by name."""
    place = tmp_path_factory.mktemp("fleet")
    with nats_server(place) as url:
        arguments = ["--engine", "jetstream", "--nats-url", url, "--nats-replicas", "1", "--http-hosts", "known.example"]
        servers = [Server(place / f"data-{number}", *arguments) for number in range(3)]
        try:
            ports = {name: free_port() for name in NAMES}
            commands = {name: globals()[name](place, servers, port) for name, port in ports.items()}
            running_all = [running(command, place / f"{name}.log") for name, command in commands.items()]
            with running_all[0], running_all[1], running_all[2]:
                for port in ports.values():
                    await_port(port)
                yield servers, {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            for server in servers:
                server.kill9()


def ask(at, path, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    kind = {"content-type": "application/json"} if body is not None else {}
    request = urllib.request.Request(f"{at}{path}", data, {**kind, **(headers or {})})
    return urllib.request.urlopen(request, timeout=SECONDS)


def publish(servers, topic, value):
    """Publishes a record once, at whichever replica takes it."""
    record, key = {"records": [{"value": value}]}, {"idempotency-key": f"{topic}-{value}"}
    turn = itertools.cycle(servers)

    def stored():
        with ask(f"http://{next(turn).http}", f"/v1/topics/{topic}/records", record, key) as answer:
            return answer.status == 200

    eventually(stored)


class Publisher(threading.Thread):
    """Publishes until it is stopped; `values` are those that are stored."""

    def __init__(self, servers, topic):
        super().__init__(daemon=True)
        self.servers, self.topic, self.values, self.stopping = servers, topic, [], threading.Event()

    def run(self):
        while not self.stopping.wait(0.02):
            value = str(len(self.values))
            publish(self.servers, self.topic, value)
            self.values.append(value)

    def stop(self):
        self.stopping.set()
        self.join(SECONDS)
        assert not self.is_alive()
        return self.values


@pytest.fixture(scope="module")
def tabs(fleet, chromium):  # noqa: F811
    """A tab for each balancer, which follows a busy topic and a quiet one. Returns what each tab has seen."""
    servers, balancers = fleet
    for topic in ("busy", "quiet"):
        ask(f"http://{servers[0].http}", "/v1/topics", {"name": topic}).close()
    handles = {}
    for name, url in balancers.items():
        chromium.switch_to.new_window("tab")
        handles[name] = chromium.current_window_handle
        chromium.get(f"{url}/")
        # A page is needed for its origin alone: the console's own requests end.
        chromium.execute_script("leave.abort();" + FOLLOW)
        eventually(lambda: chromium.execute_script("return followed.busy.open && followed.quiet.open"))

    def seen(name):
        chromium.switch_to.window(handles[name])
        return chromium.execute_script("return self.followed")

    return seen


def test_nothing_is_lost_or_repeated_in_a_rolling_restart(fleet, tabs):
    servers, balancers = fleet
    publisher = Publisher(servers, "busy")
    publisher.start()
    for server in servers:
        before = len(publisher.values)
        assert server.stop() == 0
        server.start()
        eventually(lambda: len(publisher.values) > before + 10)  # noqa: B023 (asked at once)
    values = publisher.stop()
    for name in balancers:
        eventually(lambda: len(tabs(name)["busy"]["got"]) >= len(values))  # noqa: B023
        assert tabs(name)["busy"]["got"] == values, name
    assert sum(tabs(name)["busy"]["lost"] for name in balancers) > 0, "the restarts cut streams"


def test_browsers_come_back_after_a_time_without_any_replica(fleet, tabs):
    """The balancers answer 503 for EventSource in a way that it does not give up at. `quiet` has had no record before."""
    servers, balancers = fleet
    lost = {name: tabs(name) for name in balancers}
    for server in servers:
        server.kill9()
    for name, url in balancers.items():
        def is_told_to_come_back(url=url):
            with ask(url, "/v1/topics/busy/records", headers={"accept": "text/event-stream"}) as answer:
                assert answer.headers["content-type"].startswith("text/event-stream"), answer.headers
                return answer.status == 200 and answer.read() == b"retry: 2000\n\n"

        eventually(is_told_to_come_back)
        for topic in ("busy", "quiet"):
            # Once for the cut, and once more for an answer of the balancer.
            eventually(lambda: tabs(name)[topic]["lost"] >= lost[name][topic]["lost"] + 2)  # noqa: B023
    for server in servers:
        server.start()
    for topic in ("busy", "quiet"):
        publish(servers, topic, "back")
        for name in balancers:
            eventually(lambda: "back" in tabs(name)[topic]["got"])  # noqa: B023
            got = tabs(name)[topic]["got"]
            assert got == [*lost[name][topic]["got"], "back"], (name, topic, got)


def test_grpc_web_passes(fleet, tmp_path):
    """Unary calls, a stream, and errors before and after its first message."""
    _, balancers = fleet
    descriptors(tmp_path / "descriptors")
    for name, url in balancers.items():
        command = [NODE, ROOT / "tests" / "python" / "grpc_web.mjs", PACKAGES, tmp_path / "descriptors", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert done.returncode == 0, f"{name}: {done.stderr}"
        seen = json.loads(done.stdout)
        assert (seen["read"], seen["late"]) == (["a", "b", "c"], "NotFound"), name
        assert seen["error"] == {"code": "NotFound", "reason": "TOPIC_NOT_FOUND"}, name


def test_the_names_that_browsers_use_reach_the_replicas(fleet):
    """Whoever comes by an ingress does so by its name, which has to be listed."""
    _, balancers = fleet
    for name, url in balancers.items():
        with ask(url, "/v1/server", headers={"host": "known.example"}) as answer:
            assert answer.status == 200, name
        with pytest.raises(urllib.error.HTTPError) as refused:
            ask(url, "/v1/server", headers={"host": "rebound.example"})
        assert (refused.value.code, json.load(refused.value)["reason"]) == (421, "WRONG_HOST"), name
