"""The fleet of deploy/compose with real components: the project's image, NATS, and each load balancer."""

import asyncio
import collections
import json
import os
import signal
import time
import urllib.request

import pytest
from engine import CACHE, IMAGE, PEERS, ROOT, wait
from load import Publisher, Subscriber, carries_on, settle
from many import hold_all
from shown import Log

COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
PROFILES = ["fleet", "haproxy", "nginx"]
BALANCERS = ["envoy", "haproxy", "nginx"]
REPLICAS = ["streamway-1", "streamway-2", "streamway-3"]
STREAMS = 1100
# The balancers' idle timeouts are 60 s.
QUIET_SECONDS = 65
ROUNDS = 3 if os.environ.get("TESTS_SOAK") else 1


class Fleet:
    """The compose project with local images."""

    def __init__(self, engine):
        self.engine = engine
        self.settings = {"STREAMWAY_IMAGE": IMAGE, "COMPOSE_PROJECT_NAME": "streamway-test"}
        self.settings |= {f"{name}_IMAGE": PEERS for name in ("NATS", "ENVOY", "HAPROXY", "NGINX")}
        self.settings["PROMETHEUS_IMAGE"] = PEERS
        # Published on free ports, since the tests use the addresses of the containers.
        self.settings |= {f"{name}_PORT": "0" for name in (
            "STREAMWAY", "HAPROXY", "NGINX", "PROMETHEUS", "STREAMWAY_HTTP", "HAPROXY_HTTP", "NGINX_HTTP",
        )}

    def compose(self, *arguments, check=True, timeout=240):
        profiles = [f"--profile={profile}" for profile in PROFILES]
        return self.engine.docker(
            "compose", "-f", COMPOSE, *profiles, *arguments, check=check, timeout=timeout, env=self.settings
        )

    def inspect(self, service):
        found = self.compose("ps", "-aq", service).stdout.split()
        return json.loads(self.engine.docker("inspect", *found).stdout)[0]

    def address(self, service):
        networks = self.inspect(service)["NetworkSettings"]["Networks"]
        return next(f"{net['IPAddress']}:50051" for name, net in networks.items() if name.endswith("_edge"))

    def logs(self):
        return self.compose("logs", "--no-color", "--tail", "10", check=False).stdout


@pytest.fixture(scope="module")
def fleet(engine):
    engine.take_in(CACHE / "peers.tar", PEERS)
    fleet = Fleet(engine)
    shown = Log("the fleet", fleet.logs)
    try:
        done = fleet.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "180", check=False)
        assert done.returncode == 0, done.stderr + fleet.logs()
        yield fleet
    finally:
        shown.ended()
        fleet.compose("down", "-v", "-t", "3", check=False)


@pytest.fixture(scope="module")
def addresses(fleet):
    return {name: fleet.address(name) for name in BALANCERS}


def test_every_service_is_hardened(fleet):
    for service in [*REPLICAS, *BALANCERS, "nats-1", "nats-2", "nats-3"]:
        found = fleet.inspect(service)
        host = found["HostConfig"]
        assert host["ReadonlyRootfs"] and host["CapDrop"] == ["ALL"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        inside = set(found["NetworkSettings"]["Networks"]) == {"streamway-test_inside"}
        assert inside == (service not in BALANCERS), service


def test_nats_lets_in_nobody_without_the_credentials(fleet):
    ask = (
        "for port in 4222 6222; do exec 3<>/dev/tcp/nats-1/$port; read -r -u 3 hello; "
        "printf 'CONNECT {}\\r\\nPING\\r\\n' >&3; timeout 10 cat <&3; exec 3>&-; done"
    )
    stranger = ["run", "--rm", "--network", "streamway-test_inside", "--entrypoint", "bash", PEERS, "-c", ask]
    said = fleet.engine.docker(*stranger).stdout
    assert said.count("Authorization Violation") == 2, said


def test_prometheus_finds_every_replica_and_its_rules(fleet):
    """Prometheus is the only service of the profile observability that is available without a hub."""
    # Starting it by name leaves out the rest of its profile.
    fleet.compose("up", "-d", "--no-deps", "prometheus")
    port = fleet.inspect("prometheus")["NetworkSettings"]["Ports"]["9090/tcp"][0]["HostPort"]

    def ask(path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)["data"]
        except OSError:
            return None

    def seen():
        return {target["discoveredLabels"]["__address__"] for target in (ask("targets") or {}).get("activeTargets", ())
                if target["health"] == "up"}

    inside = {fleet.inspect(name)["NetworkSettings"]["Networks"]["streamway-test_inside"]["IPAddress"] for name in REPLICAS}
    wait("three targets", lambda: seen() == {f"{address}:8081" for address in inside}, every=0.5)
    assert sum(len(group["rules"]) for group in ask("rules")["groups"]) >= 8


def test_1100_quiet_streams_through_each_balancer_outlive_its_idle_timeout(addresses):
    begun = time.monotonic()
    messages = asyncio.run(hold_all(addresses, STREAMS, QUIET_SECONDS))
    print(f"{STREAMS} streams through each of {BALANCERS}: {time.monotonic() - begun:.0f} s, {messages} messages or more")


class Load:
    """Publishers and subscribers through every balancer, with one topic for each balancer."""

    def __init__(self, addresses, topic):
        self.addresses, self.topic = addresses, topic
        self.publishers = {
            name: [Publisher(at, f"{topic}-{name}", f"p{n}", pause=0.02) for n in range(2)] for name, at in addresses.items()
        }
        self.subscribers = {name: [Subscriber(at, f"{topic}-{name}") for _ in range(3)] for name, at in addresses.items()}
        wait("load", lambda: all(s.records or s.failure for group in self.subscribers.values() for s in group))

    def carries_on(self):
        carries_on([publisher for group in self.publishers.values() for publisher in group])

    def settle(self):
        """Ends the load and returns the repeated publishes of each balancer, counted by error."""
        for group in (self.publishers, self.subscribers):
            for name, client in ((name, client) for name in group for client in group[name]):
                assert client.failure is None, f"{type(client).__name__} through {name}: {client.failure}"
        repeated = {}
        for name, address in self.addresses.items():
            publishers, subscribers = self.publishers[name], self.subscribers[name]
            total = settle(address, f"{self.topic}-{name}", publishers, subscribers)
            repeated[name] = sum((publisher.retries for publisher in publishers), collections.Counter())
            gap = max(subscriber.gap for subscriber in subscribers)
            resumes = sum((subscriber.retries for subscriber in subscribers), collections.Counter())
            print(f"{name}: {total} records, longest gap {gap:.1f} s, publishes repeated {dict(repeated[name])},")
            print(f"  subscriptions resumed {dict(resumes)}")
        return repeated


def healthy(fleet, replica, before):
    """Waits until a replica was started again and is healthy."""

    def state():
        state = fleet.inspect(replica)["State"]
        return state["StartedAt"] != before and state["Running"] and state["Health"]["Status"] == "healthy"

    wait(f"{replica} to be healthy", state, every=0.5)


def test_rolling_restart_through_each_balancer_loses_and_repeats_nothing(fleet, addresses):
    load = Load(addresses, "roll")
    for _ in range(ROUNDS):
        for replica in REPLICAS:
            before = fleet.inspect(replica)["State"]["StartedAt"]
            fleet.compose("restart", "--no-deps", replica)
            healthy(fleet, replica, before)
            # Waits for the balancers, as a rollout does.
            serve_again(addresses)
    repeated = load.settle()
    for name, subscribers in load.subscribers.items():
        assert any(s.retries for s in subscribers), f"no subscriber through {name} was moved, so nothing was restarted"
    for name, refused in repeated.items():
        assert not refused, f"publishes through {name} failed at first: {refused}"


def test_a_replica_killed_under_load_loses_and_repeats_nothing(fleet, addresses):
    load = Load(addresses, "kill")
    for replica in REPLICAS[: 1 if ROUNDS == 1 else None]:
        state = fleet.inspect(replica)["State"]
        # `docker kill` would keep the engine from restarting it.
        os.kill(state["Pid"], signal.SIGKILL)
        load.carries_on()
        healthy(fleet, replica, state["StartedAt"])
        serve_again(addresses)
    load.settle()


def serve_again(addresses):
    """Waits for two health checks of the balancers, which come every second, and for a publish through each."""
    end = time.monotonic() + 3
    clients = [Publisher(address, f"again-{name}") for name, address in addresses.items()]
    wait("publishes", lambda: time.monotonic() > end and all(c.acknowledged or c.failure for c in clients))
    for client in clients:
        client.finish()
