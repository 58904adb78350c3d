"""The OpenAPI document and the server against each other: schemathesis asks for what the document describes, and for what it
excludes, and finds nothing to complain about. Its settings, seed and exceptions are in schemathesis.toml."""

import subprocess

from conftest import ROOT

SCHEMATHESIS = ROOT / "tests" / ".cache" / "schemathesis" / "bin" / "schemathesis"
CONFIG = ROOT / "tests" / "python" / "schemathesis.toml"


def test_the_server_does_what_its_description_says(server, tmp_path):
    url = f"http://{server.http}/v1/openapi.json"
    command = [SCHEMATHESIS, "--config-file", CONFIG, "run", url, "--no-color"]
    # It keeps what it found in the directory.
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "19 passed" in done.stdout, done.stdout
