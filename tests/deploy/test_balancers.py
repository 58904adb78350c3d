"""TLS at the load balancers: terminated there, and passed through to a replica that terminates it. One server replaces the
three replicas here; test_fleet.py has real ones."""

import contextlib
import subprocess

import grpc
import load  # noqa: F401 (the stubs)
import pytest
from engine import CACHE, PEERS, ROOT, Container, running, wait
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc

DEPLOY = ROOT / "deploy"
NAMES = ("streamway", "streamway-1", "streamway-2", "streamway-3")
# A module in Debian's nginx that the hub's nginx has built in.
STREAM = "load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off;"


def certificate(place, name):
    """Makes a self-signed certificate, which is also its own authority."""
    place.mkdir(exist_ok=True)
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:streamway"]
    for file, flag in (("new.crt", "-out"), ("new.key", "-keyout")):
        command += [flag, str(place / file)]
    subprocess.run(command, check=True, capture_output=True)
    key, chain = (place / "new.key").read_bytes(), (place / "new.crt").read_bytes()
    (place / "tls.pem").write_bytes(chain + key)
    # The containers do not run as root.
    for file in ("new.key", "tls.pem"):
        (place / file).chmod(0o644)
    # Moves the files into place, as Kubernetes does with a mounted Secret.
    for end in ("key", "crt"):
        (place / f"new.{end}").rename(place / f"tls.{end}")
    return chain


class Line:
    """A network with one server behind the names of all replicas, and the balancers in front of it."""

    def __init__(self, engine, stack, name, certificates, *flags):
        self.engine, self.stack, self.certificates = engine, stack, certificates
        self.network = f"streamway-{name}"
        engine.docker("network", "create", self.network)
        stack.callback(engine.docker, "network", "rm", self.network, check=False)
        names = [flag for alias in NAMES for flag in ("--network-alias", alias)]
        self.server = stack.enter_context(running(engine, "--network", self.network, *names, *flags)).healthy()

    def balancer(self, entry, *flags):
        name, *command = entry
        mounts = ["-v", f"{self.certificates}:/etc/tls:ro", "-v", f"{DEPLOY}/envoy:/etc/envoy:ro"]
        mounts += ["-v", f"{DEPLOY}/haproxy:/etc/haproxy:ro", "-v", f"{DEPLOY}/nginx:/etc/streamway:ro"]
        hardened = ["--read-only", "--cap-drop", "ALL", "-u", "65532:65532", "--tmpfs", "/tmp"]
        container = Container(
            self.engine, "--network", self.network, *hardened, *mounts, *flags, "--entrypoint", name,
            image=PEERS, command=command,
        )
        self.stack.callback(container.remove)
        return container


@pytest.fixture(scope="module")
def place(engine, tmp_path_factory):
    engine.take_in(CACHE / "peers.tar", PEERS)
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def ended(engine, place):
    """Balancers that terminate TLS: the certificate to trust, the server, and the balancers by name."""
    trusted = certificate(place / "edge", "edge")
    with contextlib.ExitStack() as stack:
        line = Line(engine, stack, "ended", place / "edge")
        listen = f"{DEPLOY}/nginx/listen-tls.conf:/etc/streamway/listen.conf:ro"
        yield trusted, line.server, {
            "envoy": line.balancer(["envoy", "-c", "/etc/envoy/tls.yaml"]),
            "haproxy": line.balancer(["haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg"], "-e", "TLS_PEM=/etc/tls/tls.pem"),
            "nginx": line.balancer(["nginx", "-c", "/etc/streamway/nginx.conf", "-g", "daemon off;"], "-v", listen),
        }


@pytest.fixture(scope="module")
def passed(engine, place):
    """Balancers that pass TLS through to a server with a certificate of its own; returns the same as `ended`."""
    trusted = certificate(place / "server", "server")
    files = ["-eSTREAMWAY_TLS_CERT=/etc/tls/tls.crt", "-eSTREAMWAY_TLS_KEY=/etc/tls/tls.key"]
    with contextlib.ExitStack() as stack:
        line = Line(engine, stack, "passed", place / "edge", "-v", f"{place}/server:/etc/tls:ro", *files)
        yield trusted, line.server, {
            "envoy": line.balancer(["envoy", "-c", "/etc/envoy/passthrough.yaml"]),
            "haproxy": line.balancer(["haproxy", "-db", "-f", "/etc/haproxy/passthrough.cfg"]),
            "nginx": line.balancer(["nginx", "-c", "/etc/streamway/passthrough.conf", "-g", STREAM]),
        }


def channel(container, trusted):
    credentials = grpc.ssl_channel_credentials(trusted)
    options = [("grpc.ssl_target_name_override", "streamway"), ("grpc.use_local_subchannel_pool", 1)]
    options += [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100)]
    return grpc.secure_channel(f"{container.address()}:50051", credentials, options)


def reaches(container, trusted, seconds=2):
    with channel(container, trusted) as open_channel:
        try:
            grpc.channel_ready_future(open_channel).result(timeout=seconds)
        except grpc.FutureTimeoutError:
            return False
        return True


@pytest.mark.parametrize("name", ["envoy", "haproxy", "nginx"])
@pytest.mark.parametrize("where", ["ended", "passed"])
def test_a_record_goes_through_tls(request, tmp_path, where, name):
    trusted, _, balancers = request.getfixturevalue(where)
    container = balancers[name]
    wait(f"{name}, TLS {where}", lambda: reaches(container, trusted) or not container.inspect(".State.Running"))
    assert container.inspect(".State.Running"), container.logs()
    topic, value = f"{where}-{name}", name.encode()
    with channel(container, trusted) as open_channel:
        stub = rpc.StreamServiceStub(open_channel)
        publish = pb.PublishRequest(topic=topic, records=[pb.Record(value=value)])

        def stored():
            # A balancer answers so before its first health check.
            try:
                return stub.Publish(publish, timeout=10)
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
                return None

        wait("a receipt", stored)
        read = pb.SubscribeRequest(topic=topic, boundary=pb.BOUNDARY_EARLIEST, limit=pb.ReadLimit(stop_at_tail=True))
        came = [r.value for answer in stub.Subscribe(read, timeout=10) for b in answer.batches for r in b.records]
        assert came == [value]
    other = certificate(tmp_path / "other", "other")
    assert not reaches(container, other), "another certificate is not trusted"


def test_without_a_replica_the_balancer_itself_answers_as_grpc_does(ended):
    """gRPC's core turns an answer in HTML into UNKNOWN at times, which clients do not retry."""
    trusted, server, balancers = ended
    for name, container in balancers.items():
        wait(name, lambda container=container: reaches(container, trusted))
    server.engine.docker("kill", server.id)
    try:
        for name, container in balancers.items():
            with channel(container, trusted) as open_channel:
                stub = rpc.StreamServiceStub(open_channel)
                for call in (
                    lambda stub=stub: stub.Publish(pb.PublishRequest(topic="none"), timeout=30),
                    lambda stub=stub: next(stub.Subscribe(pb.SubscribeRequest(topic="none"), timeout=30)),
                ):
                    with pytest.raises(grpc.RpcError) as refused:
                        call()
                    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE, name
                    assert "http2 header" not in refused.value.details(), f"{name}: {refused.value.details()}"
    finally:
        server.engine.docker("start", server.id)
        server.healthy()


def test_envoy_takes_over_a_renewed_certificate(ended, place):
    trusted, _, balancers = ended
    wait("envoy", lambda: reaches(balancers["envoy"], trusted))
    renewed = certificate(place / "edge", "edge")
    wait("the new certificate", lambda: reaches(balancers["envoy"], renewed), seconds=30)
    assert not reaches(balancers["envoy"], trusted)
