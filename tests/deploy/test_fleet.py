"""The fleet of deploy/compose, really up: the project's image, NATS, and each load balancer."""

import asyncio
import json
import os
import time
import urllib.request

import pytest
from engine import CACHE, IMAGE, PEERS, ROOT, wait
from load import Publisher, Subscriber, check, records
from many import hold_all

COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
PROFILES = ["fleet", "haproxy", "nginx"]
BALANCERS = ["envoy", "haproxy", "nginx"]
REPLICAS = ["streamway-1", "streamway-2", "streamway-3"]
STREAMS = 1100
# The balancers' idle timeouts are 60 s.
QUIET_SECONDS = 65
ROUNDS = 3 if os.environ.get("TESTS_SOAK") else 1


class Fleet:
    """The compose project, with images that are at hand."""

    def __init__(self, engine):
        self.engine = engine
        self.settings = {"STREAMWAY_IMAGE": IMAGE, "COMPOSE_PROJECT_NAME": "streamway-test"}
        self.settings |= {f"{name}_IMAGE": PEERS for name in ("NATS", "ENVOY", "HAPROXY", "NGINX")}
        self.settings["PROMETHEUS_IMAGE"] = PEERS
        # Free ports: the addresses inside are used.
        self.settings |= {f"{name}_PORT": "0" for name in ("STREAMWAY", "HAPROXY", "NGINX", "PROMETHEUS")}

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
        return self.compose("logs", "--no-color", "--tail", "60", check=False).stdout


@pytest.fixture(scope="module")
def fleet(engine):
    engine.take_in(CACHE / "peers.tar", PEERS)
    fleet = Fleet(engine)
    try:
        done = fleet.compose("up", "-d", "--no-build", "--wait", "--wait-timeout", "180", check=False)
        assert done.returncode == 0, done.stderr + fleet.logs()
        yield fleet
    finally:
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


def test_prometheus_finds_every_replica_and_its_rules(fleet):
    """Of the profile observability this one can be had here; Tempo, Grafana and the Collector cannot."""
    # Named, so that the rest of its profile stays away.
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


def test_rolling_restart_through_each_balancer_loses_and_repeats_nothing(fleet, addresses):
    publishers = {name: [Publisher(at, f"roll-{name}", f"p{n}", pause=0.02) for n in range(2)] for name, at in addresses.items()}
    subscribers = {name: [Subscriber(at, f"roll-{name}") for _ in range(3)] for name, at in addresses.items()}
    everyone = [(name, client) for group in (publishers, subscribers) for name in group for client in group[name]]
    wait("load", lambda: all(s.records or s.failure for group in subscribers.values() for s in group))
    for _ in range(ROUNDS):
        for replica in REPLICAS:
            before = fleet.inspect(replica)["State"]["StartedAt"]
            fleet.compose("restart", "--no-deps", replica)
            state = wait(
                f"{replica} to be healthy",
                lambda replica=replica: (s := fleet.inspect(replica)["State"])["Health"]["Status"] == "healthy" and s,
                every=0.5,
            )
            assert state["StartedAt"] != before
            # Every balancer gives it work before the next one goes: what a rollout waits for.
            serve_again(addresses)
    for name, client in everyone:
        assert client.failure is None, f"{type(client).__name__} through {name}: {client.failure}"
    for name in BALANCERS:
        settle(name, addresses[name], publishers[name], subscribers[name])


def serve_again(addresses):
    """Two checks of a balancer have passed, which come every second."""
    end = time.monotonic() + 3
    clients = [Publisher(address, f"again-{name}") for name, address in addresses.items()]
    wait("publishes", lambda: time.monotonic() > end and all(c.acknowledged or c.failure for c in clients))
    for client in clients:
        client.finish()


def settle(name, address, publishers, subscribers):
    for publisher in publishers:
        publisher.finish()
    total = sum(len(publisher.acknowledged) for publisher in publishers)
    wait("the subscribers", lambda: all(len(s.records) >= total or s.failure for s in subscribers))
    for subscriber in subscribers:
        subscriber.finish()
    check(publishers, [*subscribers, records(address, f"roll-{name}", total)])
    retries = sum(publisher.retries for publisher in publishers)
    gap = max(subscriber.gap for subscriber in subscribers)
    moved = sum(subscriber.streams - 1 for subscriber in subscribers)
    # nginx does not see that a replica drains: what it refuses then, its clients repeat.
    assert retries == 0 or name == "nginx", f"{retries} publishes through {name} failed at first"
    assert moved > 0, "no subscriber was moved, so nothing was restarted under it"
    print(f"{name}: {total} records, {retries} publishes repeated, {moved} resumes, longest gap {gap:.1f} s")
