"""`buf curl`, with the schema from reflection (both versions) and from the repository."""

import base64
import json
import pathlib
import subprocess
import sys

import pytest
from conftest import ROOT

BUF = pathlib.Path(sys.executable).parent / "buf"


def curl(server, method, *messages, schema=(), fails=False):
    """Calls a method and returns the messages or the error."""
    data = "\n".join(json.dumps(message) for message in messages)
    command = [BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", *schema, "--data", "@-"]
    command.append(f"http://{server.listen}/{method}")
    done = subprocess.run(command, input=data, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode != 0) == fails, done.stderr
    if fails:
        return done.stderr
    return parse_all(done.stdout)


def parse_all(text):
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        message, at = decoder.raw_decode(text, at)
        found.append(message)
        while at < len(text) and text[at].isspace():
            at += 1
    return found


@pytest.mark.parametrize(
    "schema",
    [
        ["--reflect", "--reflect-protocol", "grpc-v1"],
        ["--reflect", "--reflect-protocol", "grpc-v1alpha"],
        ["--schema", str(ROOT / "proto")],
    ],
    ids=["reflection-v1", "reflection-v1alpha", "files"],
)
def test_the_four_kinds(server, request, schema):
    topic = f"curl-{request.node.callspec.id}"
    stream = "streamway.v1.StreamService"
    one = {"topic": topic, "records": [{"value": "aGVsbG8="}]}
    [answer] = curl(server, f"{stream}/Publish", one, schema=schema)
    assert answer["receipt"]["next"]["offset"] == "1"
    [summary] = curl(server, f"{stream}/Ingest", {"publish": one}, {"publish": one}, schema=schema)
    assert (summary["records"], summary["batches"]) == ("2", "2")
    numbered = [{"publish": {"number": n, "publish": {"records": [{"value": "eA=="}]}}} for n in (1, 2)]
    answers = curl(server, f"{stream}/Exchange", {"open": {"topic": topic}}, *numbered, schema=schema)
    assert [receipt["number"] for answer in answers for receipt in answer["receipts"]] == ["1", "2"]
    history = {"topic": topic, "boundary": "BOUNDARY_EARLIEST", "limit": {"stopAtTail": True}}
    answers = curl(server, f"{stream}/Subscribe", history, schema=schema)
    values = [r["value"] for answer in answers for batch in answer.get("batches", []) for r in batch["records"]]
    assert values == ["aGVsbG8="] * 3 + ["eA=="] * 2


def test_the_tutorial(server):
    [answer] = curl(server, "example.ExampleService/ProcessRequest", {"message": "hi"})
    assert answer == {"message": "Received message: hi"}
    answers = curl(server, "example.MyService/ServerStreamingRPCMethod", {"name": "Ada"})
    assert [answer["message"] for answer in answers] == [f"Response {i} for Ada" for i in (1, 2, 3, 4)]


def test_an_error_is_shown_with_its_details(server):
    said = curl(server, "streamway.v1.StreamService/Publish", {"topic": "No"}, fails=True)
    error = json.loads(said)
    assert error["code"] == "invalid_argument"
    details = {detail["type"]: base64.b64decode(detail["value"] + "==") for detail in error["details"]}
    assert b"INVALID_FIELD" in details["google.rpc.ErrorInfo"]
    assert b"topic" in details["google.rpc.BadRequest"]
