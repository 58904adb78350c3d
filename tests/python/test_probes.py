"""Health as grpc-health-probe and grpcurl, two programs of others, see it: on every port, in every state of the server."""

import contextlib
import os
import re
import signal
import subprocess
import threading
from concurrent import futures

import grpc
import pytest
from conftest import Server
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_health.v1 import health_pb2
from real import free_port, nats_server, program, running
from streamway.v1 import stream_pb2, stream_pb2_grpc
from test_health_reflection import SERVICES
from test_tls import authority, issue

READY = ["", "readiness", "grpc.health.v1.Health", *SERVICES]
ALL = ["liveness", "publishing", *READY]
UNKNOWN = "nonsense.Service"
# Exit codes of grpc-health-probe: no connection, the call failed, the service is not SERVING.
NO_CONNECTION, CALL_FAILED, UNHEALTHY = 2, 3, 4
# grpcurl exits with this plus the code of the status.
GRPCURL_STATUS = 64
SECONDS = 30


class Port:
    """A port with the options that each program needs for it."""

    def __init__(self, address, probe=(), curl=("-plaintext",)):
        self.address, self.probe_options, self.curl_options = address, probe, curl

    def probe(self, service, seconds=SECONDS):
        limits = [f"-connect-timeout={seconds}s", f"-rpc-timeout={seconds}s"]
        command = [program("grpc-health-probe"), "-addr", self.address, "-service", service, *limits, *self.probe_options]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    def curl_command(self, service, method="Check"):
        data = f'{{"service": "{service}"}}'
        return [program("grpcurl"), *self.curl_options, "-d", data, self.address, f"grpc.health.v1.Health/{method}"]

    def curl(self, service):
        return subprocess.run(self.curl_command(service), capture_output=True, text=True, timeout=60, check=False)

    def assert_says(self, service, status):
        probe, curl = self.probe(service), self.curl(service)
        if status is None:
            assert (probe.returncode, curl.returncode) == (CALL_FAILED, GRPCURL_STATUS + 5), (service, probe, curl)
            assert "NotFound" in probe.stderr and "Code: NotFound" in curl.stderr
            return
        assert probe.returncode == (0 if status == "SERVING" else UNHEALTHY), (service, probe)
        assert re.search(rf'"status": "{status}"', curl.stdout), (service, curl)


def assert_health(ports, serving):
    """Checks that exactly these services are SERVING, on each port and by each program."""
    with futures.ThreadPoolExecutor(4) as pool:
        wanted = [(service, "SERVING" if service in serving else "NOT_SERVING") for service in ALL] + [(UNKNOWN, None)]
        checks = [pool.submit(port.assert_says, *pair) for port in ports for pair in wanted]
        for check in checks:
            check.result()


class Watch:
    """A watch by grpcurl, which prints each change."""

    def __init__(self, port, service):
        command = port.curl_command(service, "Watch")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        # Fails the test instead of waiting for ever.
        self.limit = threading.Timer(SECONDS, self.process.kill)
        self.limit.start()

    def next(self):
        for line in self.process.stdout:
            if found := re.search(r'"status": "(\w+)"', line):
                return found[1]
        return None

    def end(self):
        self.process.kill()
        self.process.wait()
        self.limit.cancel()


@contextlib.contextmanager
def watching(port, service):
    watch = Watch(port, service)
    try:
        yield watch
    finally:
        watch.end()


class Starting(Server):
    """A server that nobody waits for, on a port with or without TLS."""

    credentials = None

    def channel(self):
        return grpc.secure_channel(self.listen, self.credentials) if self.credentials else super().channel()

    @staticmethod
    def _await_readiness(channel):
        pass


class Tls:
    """Certificates, and what servers and clients need to use them."""

    def __init__(self, directory, mutual):
        authority(directory, "ca")
        for name in ("server", "client"):
            issue(directory, "ca", name)
        path = {name: str(directory / name) for name in ("ca.pem", "server.pem", "server.key", "client.pem", "client.key")}
        self.server = ["--tls-cert", path["server.pem"], "--tls-key", path["server.key"]]
        self.probe = ["-tls", "-tls-ca-cert", path["ca.pem"]]
        self.curl = ["-cacert", path["ca.pem"]]
        pair = [None, None]
        if mutual:
            policy = directory / "policy.toml"
            policy.write_text('[[rule]]\nprincipals = ["client"]\ntopics = ["*"]\nactions = ["publish"]\n')
            self.server += ["--tls-client-ca", path["ca.pem"], "--auth-policy", str(policy)]
            self.probe += ["-tls-client-cert", path["client.pem"], "-tls-client-key", path["client.key"]]
            self.curl += ["-cert", path["client.pem"], "-key", path["client.key"]]
            pair = [(directory / name).read_bytes() for name in ("client.key", "client.pem")]
        self.credentials = grpc.ssl_channel_credentials((directory / "ca.pem").read_bytes(), *pair)


@pytest.fixture(scope="module")
def protoset(tmp_path_factory):
    """Schema of the health service, for the admin port, which has no reflection."""
    path = tmp_path_factory.mktemp("schema") / "health.protoset"
    file = FileDescriptorSet().file.add()
    health_pb2.DESCRIPTOR.CopyToProto(file)
    path.write_bytes(FileDescriptorSet(file=[file]).SerializeToString())
    return path


@pytest.fixture(params=["plaintext", "tls", "mtls"])
def start(request, tmp_path, protoset):
    """Starts a server whose gRPC port is as the parameter says; returns it with its two ports."""
    tls = None if request.param == "plaintext" else Tls(tmp_path, request.param == "mtls")
    servers = []

    class Wanted(Starting):
        credentials = tls and tls.credentials

    def start(*args):
        server = Wanted(tmp_path / "data", *(tls.server if tls else ()), *args)
        servers.append(server)
        main = Port(server.listen, tls.probe, tls.curl) if tls else Port(server.listen)
        return server, [main, Port(server.admin, curl=["-plaintext", "-protoset", str(protoset)])]

    yield start
    for server in servers:
        server.kill9()


def await_status(port, service, status):
    with watching(port, service) as watch:
        while (said := watch.next()) != status:
            assert said is not None, f"{service} did not become {status}"


def test_while_serving_and_draining(start):
    server, ports = start("--drain-delay", "30s", "--drain-timeout", "60s")
    await_status(ports[0], "readiness", "SERVING")
    assert_health(ports, ALL)
    with watching(ports[0], "readiness") as watch:
        assert watch.next() == "SERVING"
        server.process.send_signal(signal.SIGTERM)
        assert watch.next() == "NOT_SERVING"
    assert_health(ports, ["liveness"])


def test_after_the_storage_failed(start, tmp_path):
    server, ports = start()
    await_status(ports[0], "readiness", "SERVING")
    with failing_syncs(server, tmp_path), server.channel() as channel:
        request = stream_pb2.PublishRequest(topic="t", records=[stream_pb2.Record(value=b"x")])
        with pytest.raises(grpc.RpcError):
            stream_pb2_grpc.StreamServiceStub(channel).Publish(request, timeout=SECONDS)
        await_status(ports[0], "readiness", "NOT_SERVING")
        assert_health(ports, ["liveness"])


@contextlib.contextmanager
def failing_syncs(server, tmp_path):
    log = tmp_path / "strace.log"
    command = ["strace", "-f", "-o", os.devnull, "-e", "inject=fdatasync:error=EIO", "-p", str(server.process.pid)]
    with running(command, log) as strace:
        attached = threading.Event()
        while "attached" not in log.read_text():
            assert strace.poll() is None, log.read_text()
            attached.wait(0.02)
        yield


def test_while_starting_and_while_nats_is_away(start, tmp_path):
    port = free_port()
    server, ports = start("--engine", "jetstream", "--nats-url", f"nats://127.0.0.1:{port}", "--nats-replicas", "1")
    assert_health(ports, ["liveness"])
    with watching(ports[0], "readiness") as readiness, watching(ports[1], "publishing") as publishing:
        assert readiness.next() == publishing.next() == "NOT_SERVING"
        with nats_server(tmp_path, port):
            assert readiness.next() == publishing.next() == "SERVING"
            assert_health(ports, ALL)
        assert readiness.next() == publishing.next() == "NOT_SERVING"
        assert_health(ports, ["liveness"])


@pytest.mark.parametrize("start", ["plaintext"], indirect=True)
def test_while_the_store_of_nats_is_full(start, tmp_path):
    with nats_server(tmp_path, store=", max_file_store: 4MB") as url:
        server, ports = start("--engine", "jetstream", "--nats-url", url, "--nats-replicas", "1")
        await_status(ports[0], "publishing", "SERVING")
        request = stream_pb2.PublishRequest(topic="t", records=[stream_pb2.Record(value=bytes(1_000_000))])
        with server.channel() as channel, pytest.raises(grpc.RpcError) as full:
            for _ in range(10):
                stream_pb2_grpc.StreamServiceStub(channel).Publish(request, timeout=SECONDS)
        assert full.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        await_status(ports[1], "publishing", "NOT_SERVING")
        assert_health(ports, [service for service in ALL if service != "publishing"])


def test_nobody_gets_in_without_the_right_credentials(start):
    server, (main, _) = start()
    if not main.probe_options:
        wrong = [["-tls", "-tls-no-verify"]]
    elif "-tls-client-cert" in main.probe_options:
        wrong = [(), ["-tls"], main.probe_options[:3]]
    else:
        wrong = [(), ["-tls"]]
    for options in wrong:
        refused = Port(server.listen, options).probe("liveness", seconds=1)
        assert refused.returncode == NO_CONNECTION, (options, refused)
    main.assert_says("liveness", "SERVING")


def test_where_nobody_listens():
    assert Port(f"127.0.0.1:{free_port()}").probe("", seconds=1).returncode == NO_CONNECTION
