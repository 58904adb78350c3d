"""Starts new NATS clusters with the configuration of the fleet's manifests, one after the other. Their servers start at once, each
in its own network, before their names resolve. test_fresh_fleet.py runs this in new name spaces.

    fresh.py NATS-SERVER DIR ROUNDS     DIR has the configuration, with its credentials

Each server has a network name space and an address of its own, since a server ignores a route to itself. Prints for each cluster
after how long its leader counted all three servers. The exit code is 1 if one never did.
"""

import json
import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request

SERVERS = range(3)
RESOLVER = "10.9.0.100"
# Spread of the starts, and of the times at which names resolve, as measured on Kubernetes.
SPREAD_SECONDS = 0.15
# Maximum time after the start until a name resolves.
NAMELESS_SECONDS = 2.0
FORMED_SECONDS = 60


def ip(number):
    return f"10.9.0.{number + 1}"


def run(*command):
    subprocess.run(list(map(str, command)), check=True)


def make_networks(place):
    """Makes a bridge and a network name space for each server."""
    os.makedirs("/run/netns", exist_ok=True)
    run("mount", "-t", "tmpfs", "none", "/run/netns")
    run("mount", "--make-shared", "/run/netns")
    run("ip", "link", "add", "br0", "type", "bridge")
    run("ip", "addr", "add", f"{RESOLVER}/24", "dev", "br0")
    run("ip", "link", "set", "br0", "up")
    for n in SERVERS:
        run("ip", "netns", "add", f"n{n}")
        run("ip", "link", "add", f"v{n}", "type", "veth", "peer", "name", "eth0", "netns", f"n{n}")
        run("ip", "link", "set", f"v{n}", "master", "br0", "up")
        run("ip", "-n", f"n{n}", "link", "set", "lo", "up")
        run("ip", "-n", f"n{n}", "addr", "add", f"{ip(n)}/24", "dev", "eth0")
        run("ip", "-n", f"n{n}", "link", "set", "eth0", "up")
    (place / "resolv.conf").write_text(f"nameserver {RESOLVER}\n")
    run("mount", "--bind", place / "resolv.conf", "/etc/resolv.conf")


def resolve(names):
    """Serves DNS for the names that are known so far."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((RESOLVER, 53))
    while True:
        query, peer = server.recvfrom(512)
        end, labels = 12, []
        while query[end]:
            labels.append(query[end + 1 : end + 1 + query[end]].decode())
            end += 1 + query[end]
        kind, end = struct.unpack(">H", query[end + 1 : end + 3])[0], end + 5
        address = names.get(".".join(labels))
        answer = b""
        if address and kind == 1:
            answer = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
        flags = 0x8180 if address else 0x8183
        head = struct.pack(">HHHHH", flags, 1, 1 if answer else 0, 0, 0)
        server.sendto(query[:2] + head + query[12:end] + answer, peer)


def meta(number):
    try:
        with urllib.request.urlopen(f"http://{ip(number)}:8222/jsz", timeout=1) as answer:
            return json.load(answer).get("meta_cluster", {})
    except OSError:
        return {}


def has_formed():
    """Returns true if a leader counts three servers and both others are up to date."""
    for number in SERVERS:
        found = meta(number)
        others = found.get("replicas") or []
        if found.get("cluster_size") == 3 and len(others) == 2:
            if all(other.get("current") and not other.get("offline") for other in others):
                return True
    return False


def cluster(nats, place, names, rng):
    """Starts a new cluster; returns after how many seconds it had formed, or None."""
    names.clear()
    base = rng.uniform(0.1, NAMELESS_SECONDS)
    events = []
    for number in SERVERS:
        shutil.rmtree(place / f"data{number}", ignore_errors=True)
        conf = (place / "nats.conf").read_text().replace('"/data"', f'"{place}/data{number}"')
        (place / f"nats{number}.conf").write_text(conf.replace("/tmp/nats.pid", f"{place}/nats{number}.pid"))
        start = rng.uniform(0, SPREAD_SECONDS)
        events += [(start, "start", number), (max(start, base) + rng.uniform(0, SPREAD_SECONDS), "name", number)]
    servers, begun = [], time.monotonic()
    try:
        for at, what, number in sorted(events):
            time.sleep(max(0.0, begun + at - time.monotonic()))
            if what == "name":
                names[f"streamway-nats-{number}.streamway-nats"] = ip(number)
                continue
            command = ["nsenter", f"--net=/run/netns/n{number}", nats, "-c", place / f"nats{number}.conf"]
            command += ["-l", place / f"nats{number}.log"]
            environment = {**os.environ, "POD_NAME": f"streamway-nats-{number}"}
            servers.append(subprocess.Popen(list(map(str, command)), env=environment))
        while time.monotonic() < begun + FORMED_SECONDS:
            if has_formed():
                return time.monotonic() - begun
            time.sleep(0.1)
        print([(number, meta(number)) for number in SERVERS])
        for number in SERVERS:
            print("\n".join((place / f"nats{number}.log").read_text().splitlines()[-20:]))
        return None
    finally:
        for server in servers:
            server.kill()
            server.wait()


def main():
    nats, place, rounds = sys.argv[1], pathlib.Path(sys.argv[2]), int(sys.argv[3])
    seed = int(os.environ.get("TESTS_SEED", random.randrange(1 << 30)))
    print(f"seed: TESTS_SEED={seed}")
    rng, names = random.Random(seed), {}
    make_networks(place)
    # Serves on the bridge's address.
    threading.Thread(target=resolve, args=(names,), daemon=True).start()
    failed = 0
    for number in range(rounds):
        took = cluster(nats, place, names, rng)
        print(f"cluster {number}: " + ("does not form" if took is None else f"formed after {took:.1f} s"), flush=True)
        failed += took is None
    sys.exit(1 if failed else 0)


main()
