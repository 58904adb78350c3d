"""The README's blocks of docker, in order, with a real engine. Three things differ from what a user types: the base image of the
build, and in compose the images of NATS and Envoy, are made here, as no hub can be reached; and the build's profile."""

import subprocess

import pytest
from engine import BUILD_BASE, CACHE, COMMIT, PEERS, PROFILE, ROOT
from readme import blocks, is_docker, same

# The same arguments as for the image of the other tests, whose layers exist already.
BUILD = (
    f'docker() {{ if [ "$1" = build ]; then shift; set -- build --build-arg BUILD_IMAGE={BUILD_BASE} '
    f'--build-arg COMMIT={COMMIT} --build-arg PROFILE={PROFILE} "$@"; fi; command docker "$@"; }}\n'
)
COMPOSE = ["compose", "-f", ROOT / "deploy" / "compose" / "compose.yaml", "--profile", "*"]


@pytest.fixture
def environment(engine):
    engine.take_in(CACHE / "peers.tar", PEERS)
    yield engine.environment | {"NATS_IMAGE": PEERS, "ENVOY_IMAGE": PEERS}
    engine.docker(*COMPOSE, "down", "-v", "-t", "3", check=False)
    engine.docker("rm", "-fv", "streamway", check=False)
    engine.docker("volume", "rm", "-f", "streamway", check=False)


def run(command, environment):
    return subprocess.run(
        ["bash", "-c", f"{BUILD}set -euo pipefail\n{command}"],
        cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, check=False,
    )


def test_every_command_of_docker(engine, environment):
    found = [(command, expected) for command, expected in blocks() if is_docker(command)]
    assert {"docker build", "docker run", "docker compose"} <= {
        f"docker {word}" for command, _ in found for word in ("build", "run", "compose") if f"docker {word}" in command
    }
    for command, expected in found:
        done = run(command, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        if expected:
            assert same(done.stdout, expected), f"{command}printed:\n{done.stdout}and the README says:\n{expected}"
