"""TLS and client certificates with grpcio, an independent implementation of TLS."""

import http.client
import ssl
import subprocess

import grpc
import pytest
from conftest import Server
from streamway.v1 import stream_pb2, stream_pb2_grpc


def openssl(directory, *args):
    subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)


def authority(directory, name):
    openssl(directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2", "-subj", f"/CN={name}")  # fmt: skip


def issue(directory, ca, name):
    openssl(directory, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
            "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")  # fmt: skip
    (directory / f"{name}.ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(directory, "x509", "-req", "-in", f"{name}.csr", "-CA", f"{ca}.pem", "-CAkey", f"{ca}.key",
            "-CAcreateserial", "-out", f"{name}.pem", "-days", "1", "-extfile", f"{name}.ext")  # fmt: skip


class TlsServer(Server):
    credentials = None

    def channel(self):
        return grpc.secure_channel(self.listen, self.credentials)


def test_tls_and_client_certificates(tmp_path):
    for ca in ("ca", "other"):
        authority(tmp_path, ca)
    for ca, name in (("ca", "server"), ("ca", "client"), ("other", "stranger")):
        issue(tmp_path, ca, name)

    def credentials(client=None, ca="ca"):
        read = lambda name: (tmp_path / name).read_bytes()  # noqa: E731
        pair = (read(f"{client}.key"), read(f"{client}.pem")) if client else (None, None)
        return grpc.ssl_channel_credentials(read(f"{ca}.pem"), *pair)

    TlsServer.credentials = credentials("client")
    files = [f"--tls-{flag}={tmp_path / file}" for flag, file in
             (("cert", "server.pem"), ("key", "server.key"), ("client-ca", "ca.pem"))]  # fmt: skip
    (tmp_path / "policy.toml").write_text(
        '[[rule]]\nprincipals = ["client"]\ntopics = ["*"]\nactions = ["publish", "subscribe", "admin"]\n'
    )
    files.append(f"--auth-policy={tmp_path / 'policy.toml'}")
    server = TlsServer(tmp_path / "data", *files)
    try:

        def publish(credentials):
            with grpc.secure_channel(server.listen, credentials) as channel:
                request = stream_pb2.PublishRequest(topic="t", records=[{"value": b"x"}])
                return stream_pb2_grpc.StreamServiceStub(channel).Publish(request, timeout=10)

        assert publish(credentials("client")).receipt.next.offset == 1
        for refused in (credentials(), credentials("stranger"), credentials("client", ca="other")):
            with pytest.raises(grpc.RpcError) as caught:
                publish(refused)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert publish(credentials("client")).receipt.next.offset == 2
        assert_pages_cannot_use_it(server, tmp_path)
        assert server.stop() == 0
    finally:
        server.kill9()


def assert_pages_cannot_use_it(server, directory):
    """A page of another site can have a visitor's browser post with the visitor's certificate: nothing comes of it."""
    context = ssl.create_default_context(cafile=directory / "ca.pem")
    context.load_cert_chain(directory / "client.pem", directory / "client.key")
    host, port = server.http.split(":")

    def post(path, kind, headers):
        connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=10)
        body = '{"records": [{"value": "x"}]}'
        connection.request("POST", path, body, {"content-type": kind, **headers})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status

    # What a form and a fetch with no-cors can send; old browsers say nothing of the site.
    page = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "origin": "https://evil.example"}
    records, publish = "/v1/topics/t/records", "/streamway.v1.StreamService/Publish"
    for path in (records, publish):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            assert post(path, kind, page) == 403, (path, kind)
            assert post(path, kind, {"origin": "https://evil.example"}) == 403, (path, kind)
            assert post(path, kind, {}) == 415, (path, kind)
    assert post(records, "application/json", {"origin": f"https://{server.http}"}) == 200, "the certificate is good"
    assert next_offset(server) == 3, "and that was the only record"


def next_offset(server):
    with server.channel() as channel:
        request = stream_pb2.PublishRequest(topic="t", records=[{"value": b"x"}])
        return stream_pb2_grpc.StreamServiceStub(channel).Publish(request, timeout=10).receipt.first_offset
