"""gRPC-Web by a client that nobody here wrote: Connect's, on Node's fetch."""

import json
import pathlib
import subprocess

import google.rpc
import grpc_tools
from conftest import ROOT
from grpc_tools import protoc
from test_crds import NODE

PACKAGES = ROOT / "tests" / ".cache" / "grpc-web" / "node_modules"


def descriptors(place):
    """Writes the descriptors of the API and of the details of its errors."""
    common = pathlib.Path(next(iter(google.rpc.__path__))).parent.parent
    includes = [ROOT / "proto", pathlib.Path(grpc_tools.__file__).parent / "_proto", common]
    details = [common / "google" / "rpc" / name for name in ("error_details.proto", "status.proto")]
    files = [*(ROOT / "proto" / "streamway" / "v1").glob("*.proto"), *details]
    arguments = ["protoc", *(f"-I{path}" for path in includes), "--include_imports", f"--descriptor_set_out={place}"]
    assert protoc.main([*arguments, *map(str, files)]) == 0


def test_connects_client_publishes_subscribes_and_reads_errors(server, tmp_path):
    descriptors(tmp_path / "descriptors")
    command = [str(NODE), str(ROOT / "tests" / "python" / "grpc_web.mjs"), str(PACKAGES), str(tmp_path / "descriptors")]
    done = subprocess.run(
        [*command, f"http://{server.http}"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "next": "3",
        "read": ["a", "b", "c"],
        "error": {"code": "NotFound", "reason": "TOPIC_NOT_FOUND"},
        "late": "NotFound",
    }
