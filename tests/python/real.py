"""Real components that tests start, on free loopback ports."""

import contextlib
import functools
import itertools
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

from conftest import ROOT
from shown import Log

START_SECONDS = 60
NATS = ROOT / "tests" / ".cache" / "nats" / "nats-server"
# Ports below the range that the system assigns, and different in each process, since several run at once.
_ports = itertools.count(10_000 + os.getpid() % 50 * 200)


def free_port():
    while True:
        port = next(_ports)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def await_port(port):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on {port}")


@functools.cache
def program(name):
    """Returns the path of a program that tests/tools.sh builds, once it is built."""
    need = f"source tests/tools.sh && need_{name.replace('-', '_')}"
    subprocess.run(["bash", "-c", need], cwd=ROOT, check=True)
    return ROOT / "tests" / ".cache" / "programs" / name


def metrics(server):
    with urllib.request.urlopen(f"http://{server.admin}/metrics", timeout=10) as answer:
        return answer.read().decode()


@contextlib.contextmanager
def running(command, log, **more):
    """Runs a command. Its output goes to the file `log`, which is shown if the test fails."""
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **more)
    shown = Log(pathlib.Path(command[0]).name, log)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)
        shown.ended()


@contextlib.contextmanager
def nats_server(tmp_path, port=None, store=""):
    port = port or free_port()
    jetstream = f'store_dir: "{tmp_path}/nats", sync_interval: always{store}'
    config = f'listen: "127.0.0.1:{port}"\nmax_payload: 2MB\njetstream {{ {jetstream} }}\n'
    (tmp_path / "nats.conf").write_text(config)
    with running([NATS, "-c", tmp_path / "nats.conf"], tmp_path / "nats.log"):
        await_port(port)
        yield f"nats://127.0.0.1:{port}"
