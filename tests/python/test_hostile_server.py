"""A hostile server: whatever it sends, the command line does not panic or hang, and escapes control characters."""

import json
import re
import subprocess
import threading
from concurrent import futures

import grpc
import pytest
from conftest import BINARY
from google.protobuf import timestamp_pb2
from google.rpc import error_details_pb2, status_pb2
from streamway.v1 import admin_pb2 as admin_pb
from streamway.v1 import admin_pb2_grpc as admin_rpc
from streamway.v1 import stream_pb2 as pb
from streamway.v1 import stream_pb2_grpc as rpc
from streamway.v1 import topic_pb2 as topics_pb
from streamway.v1 import topic_pb2_grpc as topics_rpc

# Sets a title, clears the screen, deletes, reverses the writing direction, ends the line.
EVIL = "\x1b]0;owned\x07\x1b[2J\u009b2J\x7f\u202eevil\u2066\nerror: faked"
EDGES = [0, -1, 2**62, 2**63 - 1, -(2**63)]
EPOCH = "00c0ffee00c0ffee"


def obeyed(text):
    """Control characters in the output."""
    allowed = lambda c: c == "\n" or (c.isprintable() and ord(c) not in (0x7F, *range(0x80, 0xA0)))
    return [hex(ord(c)) for c in text if not allowed(c)]


def evil_topic(seconds, name="topic" + EVIL):
    time = timestamp_pb2.Timestamp(seconds=seconds, nanos=-(2**31))
    topic = topics_pb.Topic(name=name, epoch=EVIL, create_time=time, update_time=time, last_publish_time=time)
    topic.earliest_offset, topic.tail, topic.stored_bytes = 2**64 - 1, 0, 2**64 - 1
    topic.retention.max_age.seconds, topic.retention.max_age.nanos = seconds, 2**31 - 1
    topic.retention.max_bytes = topic.retention.max_records = 2**64 - 1
    return topic


class Topics(topics_rpc.TopicServiceServicer):
    seconds = 0
    endless = False
    names = ("topic" + EVIL, "topicz")

    def GetTopic(self, request, context):
        if request.name == "refused":
            info = error_details_pb2.ErrorInfo(reason="OFFSET_TRIMMED", domain=EVIL)
            info.metadata["tail"] = info.metadata["earliest_offset"] = EVIL
            bad = error_details_pb2.BadRequest()
            bad.field_violations.add(field=EVIL, description="other " + EVIL)
            status = status_pb2.Status(code=9, message="refused " + EVIL)
            for detail in (info, bad):
                status.details.add().Pack(detail)
            context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, status.message)
        return topics_pb.GetTopicResponse(topic=evil_topic(self.seconds))

    def ListTopics(self, request, context):
        token = "again" if self.endless else ""
        topics = [] if request.page_token else [evil_topic(self.seconds, name) for name in self.names]
        return topics_pb.ListTopicsResponse(topics=topics, next_page_token=token)

    def TrimTopic(self, request, context):
        return topics_pb.TrimTopicResponse(earliest_offset=2**64 - 1)


class Admin(admin_rpc.AdminServiceServicer):
    """Its lists repeat two pages for ever."""

    def page(self, answer, request, **more):
        return answer(next_page_token="odd" if request.page_token != "odd" else "even", **more)

    def ListCalls(self, request, context):
        if request.principal:
            return self.page(admin_pb.ListCallsResponse, request, calls=[admin_pb.Call(id=EVIL)])
        return admin_pb.ListCallsResponse()

    def ListConnections(self, request, context):
        return self.page(admin_pb.ListConnectionsResponse, request)

    def ListBans(self, request, context):
        return self.page(admin_pb.ListBansResponse, request)


class Streams(rpc.StreamServiceServicer):
    seconds = 0

    def Subscribe(self, request, context):
        record = pb.Record(key=EVIL.encode(), value=EVIL.encode(), headers={EVIL: EVIL})
        record.event_time.seconds, record.event_time.nanos = self.seconds, 2**31 - 1
        batch = pb.RecordBatch(first_offset=2**64 - 2, records=[record, record])
        batch.publish_time.seconds, batch.publish_time.nanos = self.seconds & (2**63 - 1), 0
        end = pb.Position(epoch=EPOCH, offset=2**64 - 1)
        yield pb.SubscribeResponse(batches=[batch], next=end, tail=2**64 - 1)

    def Exchange(self, requests, context):
        """A server whose disk hangs: it accepts everything and acknowledges only the first publish."""
        next(requests)
        first = next(requests).publish
        receipt = pb.Receipt(first_offset=0, next=pb.Position(epoch=EPOCH, offset=len(first.publish.records)))
        yield pb.ExchangeResponse(receipts=[pb.NumberedReceipt(number=first.number, receipt=receipt)])
        gone = threading.Event()
        context.add_callback(gone.set)
        gone.wait(60)


@pytest.fixture(scope="module")
def hostile():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    topics, streams = Topics(), Streams()
    topics_rpc.add_TopicServiceServicer_to_server(topics, server)
    rpc.add_StreamServiceServicer_to_server(streams, server)
    admin_rpc.add_AdminServiceServicer_to_server(Admin(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"http://127.0.0.1:{port}", topics, streams
    server.stop(0)


def run(hostile, *args, code=0, **more):
    server = [] if args[0] in ("copy", "complete-line") else ["--server", hostile[0]]
    done = subprocess.run([BINARY, *server, *args], capture_output=True, timeout=60, check=False, **more)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == code and "panicked" not in err, (done.returncode, out, err)
    return out, err


@pytest.mark.parametrize("seconds", EDGES)
@pytest.mark.parametrize("output", ["table", "json"])
@pytest.mark.parametrize("command", [["describe", "t"], ["list"], ["trim", "t", "--before", "1"]])
def test_topics_of_any_numbers_and_names_are_shown(hostile, command, output, seconds):
    hostile[1].seconds = seconds
    out, _ = run(hostile, "topics", *command, "--output", output)
    assert out and not obeyed(out), out
    assert not any(line.startswith("error: faked") for line in out.splitlines()), out
    if output == "json" and command[0] != "trim":
        assert json.loads(out.splitlines()[0])["name"] == "topic" + EVIL, "programs read the same text"


@pytest.mark.parametrize("seconds", EDGES)
def test_records_of_any_numbers_are_json_that_moves_no_terminal(hostile, seconds):
    hostile[2].seconds = seconds
    out, _ = run(hostile, "subscribe", "t", "-n", "2", "--output", "json")
    assert not obeyed(out), out
    for line in map(json.loads, out.splitlines()):
        assert line["value"] == line["key"] == line["headers"][EVIL] == EVIL
        assert "event_time" in line and "publish_time" in line


def test_a_raw_record_is_printed_as_it_was_published(hostile):
    out, _ = run(hostile, "subscribe", "t", "-n", "1")
    assert out == 2 * (EVIL + "\n"), "a server that sends more than was asked for"


def test_an_error_is_one_line_that_moves_no_terminal(hostile):
    for command in [("topics", "describe"), ("-vv", "topics", "describe")]:
        _, err = run(hostile, *command, "refused", code=1)
        assert "refused \\u{1b}]0;owned" in err and not obeyed(err), err
        assert [line for line in err.splitlines() if line.startswith("error: ")] == [err.splitlines()[-1]], err


def test_a_list_that_leads_nowhere_ends(hostile, tmp_path):
    hostile[1].endless = True
    try:
        for command in [("topics", "list"), ("copy", hostile[0], str(tmp_path / "all.backup"))]:
            _, err = run(hostile, *command, code=1)
            assert "a page is followed by itself" in err and not obeyed(err), err
    finally:
        hostile[1].endless = False


def test_a_list_of_clients_that_repeats_itself_ends(hostile):
    for command in [("list",), ("list", "--principal", "x"), ("bans",)]:
        _, err = run(hostile, "clients", *command, code=1)
        assert "a page is repeated" in err and not obeyed(err), err


def test_a_completion_is_nothing_that_a_shell_would_run(hostile):
    """A shell puts it on the line as it is."""
    hostile[1].names = ["good", "t$(touch x)", "t`touch x`", "t;x", "t*", "-t", "t x", "t\nx", "t'"]
    try:
        out, _ = run(hostile, "complete-line", "--", "--server", hostile[0], "topics", "describe", "")
        assert out.split() == ["good"], out
    finally:
        hostile[1].names = Topics.names


def test_a_copy_of_what_no_server_has_is_refused(hostile, tmp_path):
    """A backup of such an answer could not be read again."""
    for topic in [(), ("-t", "t")]:
        _, err = run(hostile, "copy", hostile[0], str(tmp_path / "all.backup"), *topic, code=1)
        assert "which no server of streamway has" in err and not obeyed(err), err
    assert list(tmp_path.iterdir()) == []


def test_a_server_whose_disk_hangs_is_given_up(hostile):
    """It answers pings and reads, so only the missing acknowledgements show the fault."""
    lines = b"".join(b"line %d\n" % i for i in range(5000))
    _, err = run(hostile, "publish", "t", "--retry-for", "2s", "--quiet", code=1, input=lines)
    # The number of lines in the first batch, which the server acknowledges, depends on timing.
    assert re.search(r"has acknowledged nothing for \d+s", err), err
    assert re.search(r"at least the first [1-9]\d* lines are stored", err), err
