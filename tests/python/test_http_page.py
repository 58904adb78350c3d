"""The commands of docs/http.md, executed in order."""

import subprocess

import pytest
from conftest import Server
from readme import blocks, same


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"))
    yield server
    server.kill9()


def test_every_command(server):
    found = blocks("docs/http.md")
    assert len(found) >= 3
    for command, expected in found:
        script = ["bash", "-c", "set -euo pipefail\n" + command.replace("localhost:8080", server.http)]
        done = subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=60)
        assert same(done.stdout, expected), f"{command}printed:\n{done.stdout}and the page says:\n{expected}"
        assert done.returncode == 0, done.stdout
