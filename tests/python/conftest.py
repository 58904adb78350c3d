"""A real server for every test module, and stubs generated from the repository's protos."""

import atexit
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading

import grpc
import pytest
from grpc_tools import protoc
from shown import Log, pytest_runtest_logstart, pytest_runtest_makereport  # noqa: F401 (hooks)

ROOT = pathlib.Path(__file__).resolve().parents[2]
TUTORIAL = pathlib.Path(__file__).resolve().parent / "tutorial"
BINARY = pathlib.Path(os.environ.get("TESTS_BINARY", ROOT / "target" / "release" / "streamway"))
START_SECONDS = 60
# Each process has a directory of its own, since several run at once.
STUBS = pathlib.Path(tempfile.mkdtemp(prefix="streamway-stubs-"))
atexit.register(shutil.rmtree, STUBS, ignore_errors=True)


def generate(include, *files):
    builtin = pathlib.Path(sys.modules["grpc_tools"].__file__).parent / "_proto"
    outputs = [f"--python_out={STUBS}", f"--grpc_python_out={STUBS}"]
    code = protoc.main(["protoc", f"-I{include}", f"-I{builtin}", *outputs, *map(str, files)])
    assert code == 0, "the protos compile with protoc too"


proto = ROOT / "proto"
generate(proto, *sorted(proto.glob("streamway/v1/*.proto")), proto / "example" / "example.proto")
generate(TUTORIAL, TUTORIAL / "my_service.proto")
sys.path.insert(0, str(STUBS))


class Server:
    """The binary as a child process on free ports; it can be killed and started again."""

    def __init__(self, data_dir, *args):
        self.data_dir, self.args = data_dir, args
        self.listen = self.http = self.admin = "127.0.0.1:0"
        self.start()

    def start(self):
        command = [str(BINARY), "serve", "--listen", self.listen, "--admin-listen", self.admin]
        command += ["--http-listen", self.http, "--data-dir", str(self.data_dir), *self.args]
        self.log = lines = []
        self.shown = Log(f"streamway on {self.data_dir}", lambda: "".join(lines))
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        bound = queue.Queue()
        threading.Thread(target=self._follow, args=(self.process.stderr, lines, bound), daemon=True).start()
        found = bound.get(timeout=START_SECONDS)
        assert found, "the server ended at its start:\n" + "".join(self.log)
        self.listen, self.http, self.admin = found
        with self.channel() as channel:
            grpc.channel_ready_future(channel).result(timeout=START_SECONDS)
            self._await_readiness(channel)

    @staticmethod
    def _follow(stderr, log, bound):
        for line in stderr:
            log.append(line)
            del log[:-500]
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            fields = entry.get("fields", entry)
            if "listen" in fields and not fields["listen"].endswith(":0"):
                bound.put((fields["listen"], fields["http_listen"], fields["admin_listen"]))
        bound.put(None)

    @staticmethod
    def _await_readiness(channel):
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=START_SECONDS)
        for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                watch.cancel()
                return

    def channel(self):
        return grpc.insecure_channel(self.listen)

    def kill9(self):
        self.process.kill()
        self.process.wait(timeout=10)
        self.shown.ended()

    def stop(self):
        """Sends SIGTERM and returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.shown.ended()
        return self.process.wait(timeout=15)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"))
    yield server
    try:
        assert server.stop() == 0, "".join(server.log)
    finally:
        server.kill9()


@pytest.fixture
def channel(server):
    with server.channel() as channel:
        yield channel
