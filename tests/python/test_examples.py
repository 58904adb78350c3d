"""The programs in examples, run as a user runs them."""

import os
import pathlib
import queue
import re
import shutil
import subprocess
import sys
import threading

import pytest
from conftest import BINARY, ROOT, STUBS, Server
from real import await_port, free_port, running

EXAMPLES = ROOT / "examples" / "python"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(STUBS)}


def run(server, name, *args):
    command = [sys.executable, str(EXAMPLES / name), server.listen, *args]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_four_kinds(server):
    assert run(server, "publish.py", "greetings") == "stored at offset 0, next is 2\n"
    assert run(server, "subscribe.py", "greetings") == "0 en hello\n1 fr bonjour\n"
    assert run(server, "ingest.py", "bulk") == "stored 1000 records in 100 batches\n"
    assert run(server, "exchange.py", "pipeline", "500") == "500 batches are on disk\n"
    assert run(server, "subscribe.py", "pipeline").splitlines()[-1] == "499  pipelined 500"


def test_a_go_program(server, tmp_path):
    """Generates a client from a copy of the protos, whose `go_package` must fit, and runs the example."""
    for part in ("examples/go", "proto"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("*.pb.go"))
    place = tmp_path / "examples" / "go"
    path = f"{os.environ['PATH']}:{pathlib.Path(sys.executable).parent}"
    need = f"cd {ROOT} && source tests/tools.sh && need_go_example && cd {place}"
    script = f"set -e; {need}; go generate; go run . {server.listen} from-go"
    options = {"env": {**os.environ, "PATH": path}, "capture_output": True, "text": True, "timeout": 600}
    done = subprocess.run(["bash", "-c", script], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("stored at offset 0, next is 2\n0 en hello\n1 fr bonjour\n"), done.stdout


def test_every_proto_has_its_go_package():
    """The packages of the Go module clients/go, which is tagged clients/go/vX."""
    for path in (ROOT / "proto").rglob("*.proto"):
        text = path.read_text()
        package = re.search(r"^package ([\w.]+);$", text, re.M)[1]
        name = f";{package.replace('.', '')}" if "." in package else ""
        wanted = f"github.com/streamway/streamway/clients/go/{package.replace('.', '/')}{name}"
        assert re.search(r'^option go_package = "(.+)";$', text, re.M)[1] == wanted, path


def test_every_example_is_run_here():
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "publish.py",
        "ingest.py",
        "subscribe.py",
        "exchange.py",
        "resume.py",
        "worker.py",
    }


def test_three_workers_share_the_records_though_one_is_killed(server):
    # No other test publishes to this topic.
    run(server, "ingest.py", "work")
    command = [sys.executable, str(EXAMPLES / "worker.py"), server.listen, "work", "workers"]
    workers = [
        subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    lines = queue.Queue()

    def read(worker):
        for line in worker.stdout:
            lines.put((worker, int(line.split()[0])))

    for worker in workers:
        threading.Thread(target=read, args=(worker,), daemon=True).start()
    try:
        first, offset = lines.get(timeout=60)
        first.kill()
        handled = {offset}
        # Whatever the first one managed before it was killed, these are left to the others.
        run(server, "ingest.py", "work")
        while len(handled) < 2000:
            _, offset = lines.get(timeout=60)  # what the killed one held is leased again after 30 s
            handled.add(offset)
        assert handled == set(range(2000))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.fixture
def balanced(tmp_path):
    """A server behind HAProxy, which reports broken streams in its own way."""
    server, port = Server(tmp_path / "data"), free_port()
    (tmp_path / "haproxy.cfg").write_text(
        f"""
        defaults
            mode http
            timeout connect 5s
            timeout client 1m
            timeout server 1m
        frontend grpc
            bind 127.0.0.1:{port} proto h2
            default_backend server
        backend server
            server one {server.listen} proto h2
\n"""
    )
    with running(["haproxy", "-db", "-f", tmp_path / "haproxy.cfg"], tmp_path / "haproxy.log"):
        await_port(port)
        yield server, f"127.0.0.1:{port}"


def test_the_resume_loop_sees_every_record_once_behind_a_balancer(balanced):
    see_every_record_once(*balanced, "kill9")


@pytest.mark.parametrize("how", ["kill9", "stop"])
def test_the_resume_loop_sees_every_record_once(tmp_path, how):
    server = Server(tmp_path)
    see_every_record_once(server, server.listen, how)


def see_every_record_once(server, target, how):
    command = [sys.executable, str(EXAMPLES / "resume.py"), target, "greetings"]
    follower = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    lines = queue.Queue()

    def read():
        for line in follower.stdout:
            lines.put(line.strip())

    threading.Thread(target=read, daemon=True).start()
    expected, seen = [], []
    try:
        for _ in range(4):
            run(server, "publish.py", "greetings")
            at = len(expected)
            expected += [f"{at} hello", f"{at + 1} bonjour"]
            while len(seen) < len(expected):
                seen.append(lines.get(timeout=30))
            getattr(server, how)()
            server.start()
        assert seen == expected
        assert lines.empty()
    finally:
        follower.kill()
        follower.wait()
        server.kill9()


def test_the_resume_loop_under_load_through_drains(tmp_path):
    """P3, P8: the command line publishes without a pause while the server drains and starts again."""
    server = Server(tmp_path)
    follow = [sys.executable, str(EXAMPLES / "resume.py"), server.listen, "load"]
    publish = [str(BINARY), "publish", "load", "--server", f"http://{server.listen}"]
    follower = subprocess.Popen(follow, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    publisher = subprocess.Popen(publish, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    # Reads the answers, since a full pipe would block the publisher.
    threading.Thread(target=publisher.stdout.read, daemon=True).start()
    done, sent = threading.Event(), []

    def feed():
        while not done.is_set():
            publisher.stdin.write(f"{len(sent)}\n")
            publisher.stdin.flush()
            sent.append(len(sent))
        publisher.stdin.close()

    feeder = threading.Thread(target=feed, daemon=True)
    feeder.start()
    try:
        seen = []
        for round in range(4):
            while len(seen) < 1000 * (round + 1):
                seen.append(follower.stdout.readline().strip())
            if round < 3:
                server.stop()
                server.start()
        done.set()
        feeder.join(timeout=30)
        assert publisher.wait(timeout=60) == 0, "every record was acknowledged"
        while len(seen) < len(sent):
            seen.append(follower.stdout.readline().strip())
        assert seen == [f"{i} {i}" for i in range(len(sent))], "each once, in order"
    finally:
        done.set()
        for process in (follower, publisher):
            process.kill()
            process.wait()
        server.kill9()


def test_the_resume_loop_is_short():
    assert len((EXAMPLES / "resume.py").read_text().splitlines()) <= 42
    assert pathlib.Path(EXAMPLES / "requirements.txt").read_text().count("==") == 3
