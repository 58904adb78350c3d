"""Every command of the README, executed in order, as a user would, in a directory of its own.

Each ```sh block is run and must print the ```text block right after it. Two blocks are special: the server runs until the
end, and tests/run is skipped because it runs this test. `kubectl apply -k` and `helm install` render, as there is no cluster.
Blocks of docker are run by tests/deploy, which has an engine.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import BINARY, ROOT
from readme import blocks, is_docker, same
from shown import Log

SERVE = "cargo run --release -- serve"
RUNNER = "tests/run"
# The binary that tests/run has built stands in for a build of the profile release; without one, cargo builds in the clone.
CARGO = """cargo() {
    if [ -z "${TESTS_BINARY:-}" ]; then command cargo "$1" --manifest-path "$CLONE/Cargo.toml" "${@:2}"; return; fi
    [ "$1 $2 $3" = "run --release --" ] && "$TESTS_BINARY" "${@:4}"
}
export -f cargo
"""

# Renders the manifests that would be applied and refuses every other command, as there is no cluster.
KUBECTL = 'kubectl() { [ "$#" = 3 ] && [ "$1 $2" = "apply -k" ] && command kubectl kustomize "$CLONE/$3"; }\n'
# Renders the chart that would be installed.
HELM = 'helm() { [ "$#" = 3 ] && [ "$1" = install ] && "$CLONE/tests/.cache/helm/v4/helm" template "$2" "$CLONE/$3"; }\n'


def test_the_two_commands_come_first():
    commands = [command.strip() for command, _ in blocks()]
    assert commands[:2] == [SERVE, RUNNER]
    text = (ROOT / "README.md").read_text()
    assert "```bash" not in text and "```console" not in text, "every command stands in a block that is run"


def test_tests_run_is_what_runs_this():
    assert os.environ.get("TESTS_RUNNER") == RUNNER, "run the tests with tests/run"


@pytest.fixture
def place(tmp_path):
    for part in ("examples", "proto"):
        ignore = shutil.ignore_patterns("streamway*" if part == "examples" else "")
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignore)
    (tmp_path / "target" / "release").mkdir(parents=True)
    (tmp_path / "target" / "release" / "streamway").symlink_to(BINARY)
    return tmp_path


@pytest.fixture
def environment():
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMWAY_")}
    # For `buf`, which a user has installed.
    path = f"{kept['PATH']}:{pathlib.Path(sys.executable).parent}"
    return {**kept, "PATH": path, "CLONE": str(ROOT)}


def test_every_command(place, environment):
    for port in (50051, 8081):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, f"port {port} is taken: end what listens there"
    session = Session(place, environment)
    try:
        for command, expected in blocks():
            if command.strip() == RUNNER or is_docker(command):
                continue
            if command.strip() == SERVE:
                session.serve(command)
                continue
            printed = session.run(command)
            if expected:
                assert same(printed, expected), f"{command}printed:\n{printed}and the README says:\n{expected}"
    finally:
        session.close()


class Session:
    """One shell environment for all blocks, so that exports reach the next block."""

    def __init__(self, place, environment):
        self.place, self.environment = place, environment
        self.server = None
        self.saved = place / ".environment"
        self.saved.write_text("")

    def serve(self, command):
        self.log = (self.place / ".server.log").open("w")
        self.shown = Log("the README's server", self.place / ".server.log")
        self.server = subprocess.Popen(
            ["bash", "-c", CARGO + command],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        deadline = time.monotonic() + 900  # it may have to be built
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", 50051)) == 0:
                    return
            assert self.server.poll() is None, (self.place / ".server.log").read_text()
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.2)

    def run(self, command):
        script = f"{CARGO}{KUBECTL}{HELM}set -euo pipefail\nsource {self.saved}\n{command}\nexport -p > {self.saved}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def close(self):
        if self.server is None:
            return
        self.shown.ended()
        # The group of the session that `serve` started.
        os.killpg(self.server.pid, signal.SIGTERM)
        try:
            self.server.wait(timeout=15)
        finally:
            try:
                os.killpg(self.server.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.server.wait()
            self.log.close()
        assert "panicked" not in (self.place / ".server.log").read_text()


def test_every_file_the_documents_name_is_there():
    for name in ("README.md", "ARCHITECTURE.md", *map(str, (ROOT / "docs").glob("*.md"))):
        document = ROOT / name
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{name} links to {target}"
    assert pathlib.Path(ROOT / "LICENSE").read_text().lstrip().startswith("Apache License")
