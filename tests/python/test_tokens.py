"""Tokens with a stock client, in the metadata of each call."""

import subprocess

import grpc
import pytest
from conftest import BINARY, Server
from streamway.v1 import stream_pb2, stream_pb2_grpc


def test_a_token_in_the_metadata_of_a_call(tmp_path):
    command = [str(BINARY), "token", "alice"]
    token, line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    (tmp_path / "tokens.toml").write_text(line + "\n")
    rule = '[[rule]]\nprincipals = ["alice"]\ntopics = ["orders"]\nactions = ["publish"]\n'
    (tmp_path / "policy.toml").write_text(rule)
    files = [f"--auth-tokens={tmp_path / 'tokens.toml'}", f"--auth-policy={tmp_path / 'policy.toml'}"]
    server = Server(tmp_path / "data", *files)
    try:
        with server.channel() as channel:
            publish = stream_pb2_grpc.StreamServiceStub(channel).Publish

            def publish_to(topic, *metadata):
                request = stream_pb2.PublishRequest(topic=topic, records=[{"value": b"x"}])
                return publish(request, metadata=metadata, timeout=10)

            bearer = ("authorization", f"Bearer {token}")
            assert publish_to("orders", bearer).receipt.next.offset == 1
            for code, topic, metadata in (
                (grpc.StatusCode.UNAUTHENTICATED, "orders", ()),
                (grpc.StatusCode.UNAUTHENTICATED, "orders", (("authorization", f"Bearer {token}x"),)),
                (grpc.StatusCode.PERMISSION_DENIED, "other", (bearer,)),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    publish_to(topic, *metadata)
                assert caught.value.code() == code
        assert token not in "".join(server.log)
    finally:
        server.kill9()
