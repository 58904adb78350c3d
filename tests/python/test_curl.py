"""The commands of docs/curl.md, executed in order by grpcurl, grpc-health-probe and buf."""

import os
import pathlib
import re
import subprocess
import sys

import grpc
import pytest
from conftest import BINARY, Server
from readme import blocks, same
from real import program
from streamway.v1 import topic_pb2, topic_pb2_grpc
from test_tls import TlsServer, authority, issue

# The server of these commands has TLS and identities.
SECURE = "-cacert ca.pem"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("data"))
    yield server
    server.kill9()


@pytest.fixture(scope="module")
def secure(tmp_path_factory):
    """A server with TLS, tokens and client certificates, in whose directory the client's files are; and a token."""
    place = tmp_path_factory.mktemp("secure")
    authority(place, "ca")
    for name in ("server", "client"):
        issue(place, "ca", name)
    command = [str(BINARY), "token", "client"]
    token, line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (place / "tokens.toml").write_text(line + "\n")
    rule = '[[rule]]\nprincipals = ["client"]\ntopics = ["*"]\nactions = ["publish", "subscribe", "admin"]\n'
    (place / "policy.toml").write_text(rule)
    files = {"tls-cert": "server.pem", "tls-key": "server.key", "tls-client-ca": "ca.pem"}
    files |= {"auth-tokens": "tokens.toml", "auth-policy": "policy.toml"}
    flags = [f"--{flag}={place / name}" for flag, name in files.items()] + ["--tls-client-auth=optional"]
    TlsServer.credentials = grpc.ssl_channel_credentials((place / "ca.pem").read_bytes())
    server = TlsServer(place / "data", *flags)
    try:
        with server.channel() as channel:
            request = topic_pb2.CreateTopicRequest(topic={"name": "letters"})
            metadata = (("authorization", f"Bearer {token}"),)
            topic_pb2_grpc.TopicServiceStub(channel).CreateTopic(request, metadata=metadata, timeout=10)
        yield server, place, token
    finally:
        server.kill9()


def run(command, server, place, **environment):
    command = command.replace("localhost:50051", server.listen.replace("127.0.0.1", "localhost"))
    command = command.replace("localhost:8081", server.admin)
    tools = {program(name).parent for name in ("grpcurl", "grpc-health-probe")} | {pathlib.Path(sys.executable).parent}
    path = ":".join([*map(str, tools), os.environ["PATH"]])
    script = ["bash", "-c", f"set -euo pipefail\n{command}"]
    options = {"cwd": place, "env": {**os.environ, "PATH": path, **environment}, "timeout": 60}
    return subprocess.run(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)


def test_every_command(plain, secure, tmp_path):
    found = blocks("docs/curl.md")
    assert len(found) > 10
    for command, expected in found:
        if SECURE in command:
            server, place, token = secure
            done = run(command, server, place, TOKEN=token)
        else:
            done = run(command, plain, tmp_path)
        is_error = re.match(r'ERROR:|\{\s*"code"', expected) is not None
        assert same(done.stdout, expected), f"{command}printed:\n{done.stdout}and the page says:\n{expected}"
        assert (done.returncode != 0) == is_error, done.stdout


def test_the_exit_code_that_the_page_names(plain, tmp_path):
    (command,) = (command for command, expected in blocks("docs/curl.md") if expected.startswith("ERROR:"))
    assert run(command, plain, tmp_path).returncode == 73


@pytest.mark.parametrize("name", ["ErrorInfo", "RetryInfo", "BadRequest", "QuotaFailure", "PreconditionFailure", "ResourceInfo"])
def test_reflection_describes_the_details_of_errors(plain, tmp_path, name):
    done = run(f"grpcurl -plaintext localhost:50051 describe google.rpc.{name}", plain, tmp_path)
    assert f"message {name} {{" in done.stdout, done.stdout
