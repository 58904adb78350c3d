"""The command line from outside: its log lines, trace propagation, and messages about broken connections."""

import os
import re
import subprocess
import threading
import time

from conftest import BINARY
from real import free_port
from telemetry import named, observed, receiver, spans  # noqa: F401 (fixtures)

PARENT = "00f067aa0ba902b7"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def run(server, *args, **env):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "RUST_"))}
    command = [BINARY, "--server", f"http://{server.listen}", *args]
    done = subprocess.run(command, input="a\nb\n", env=clean | env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_minus_v_logs_and_hands_a_trace_on_that_the_server_keeps(receiver, observed):
    server = observed()
    assert "exchange opened" not in run(server, "publish", "orders")
    said = run(server, "publish", "-v", "orders")
    assert "exchange opened" in said, said
    trace = re.search(r"trace_id=\W*(\w{32})", said)[1]
    assert server.stop() == 0
    assert any(span["Trace ID"] == trace for span in spans(receiver) if span["Name"] == "publish orders")


def test_with_an_endpoint_the_command_and_its_calls_are_spans(receiver, observed):
    server = observed()
    otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"]}
    run(server, "publish", "orders", TRACEPARENT=f"00-{TRACE}-{PARENT}-01", **otel)
    run(server, "subscribe", "orders", "--from", "earliest", TRACEPARENT=f"00-{TRACE}-{PARENT}-01", **otel)
    assert server.stop() == 0
    command = named(receiver, "streamway publish")
    assert (command["Trace ID"], command["Parent ID"]) == (TRACE, PARENT)
    for command, method in [("streamway publish", "Exchange"), ("streamway subscribe", "Subscribe")]:
        calls = [span for span in spans(receiver) if span["Name"] == f"streamway.v1.StreamService/{method}"]
        client = next(call for call in calls if call["Kind"] == "SPAN_KIND_CLIENT")
        served = next(call for call in calls if call["Kind"] == "SPAN_KIND_SERVER")
        assert client["Parent ID"] == named(receiver, command)["ID"]
        assert served["Parent ID"] == client["ID"]
    assert named(receiver, "deliver orders")["Trace ID"] == TRACE


def test_a_collector_that_is_away_keeps_no_command_from_its_work(observed):
    server = observed()
    run(server, "publish", "orders", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert "no telemetry" in run(server, "publish", "orders", OTEL_TRACES_EXPORTER="zipkin")
    assert server.stop() == 0


def test_an_interruption_and_the_resumption_are_told(observed):
    server = observed()
    run(server, "publish", "orders")
    command = [BINARY, "--server", f"http://{server.listen}", "subscribe", "orders", "-v", "--from", "earliest", "--follow"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "RUST_"))}
    process = subprocess.Popen(command, env=clean, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines = []
    try:
        watch = threading.Thread(target=lambda: [lines.append(line) for line in process.stderr], daemon=True)
        watch.start()
        await_line(lines, "subscription opened")
        server.kill9()
        await_line(lines, "the subscription is interrupted, will resume")
        server.start()
        await_line(lines, "the subscription continues")
        assert any("subscription opened" in line and "offset=2" in plain(line) for line in lines), lines
    finally:
        process.kill()
        process.wait(timeout=10)
    assert server.stop() == 0


def plain(line):
    return re.sub(r"\x1b\[[\d;]*m", "", line)


def await_line(lines, text):
    deadline = time.monotonic() + 60
    while not any(text in line for line in lines):
        assert time.monotonic() < deadline, lines
        time.sleep(0.05)


def on_a_terminal(server, *args, answer=b"", before=None, **env):
    """Runs a command whose input and errors are a terminal. Returns its exit code and what it showed there. `before` is
    called between the command's question and the answer."""
    ours, theirs = os.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "RUST_LOG")}
    command = [BINARY, "--server", f"http://{server.listen}", *args]
    process = subprocess.Popen(command, env=clean | env, stdin=theirs, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        if before:
            while b"[y/N]" not in shown:
                shown += os.read(ours, 4096)
            before()
        os.write(ours, answer)
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # Linux says EIO once the other side is closed.
        pass
    os.close(ours)
    return process.wait(timeout=60), shown.decode()


def test_deleting_by_prefix_asks_and_does_as_it_is_told(observed):
    server = observed()
    for topic in ("test-a", "test-b"):
        run(server, "publish", topic)
    delete = ("topics", "delete", "--prefix", "test-")
    code, shown = on_a_terminal(server, *delete, answer=b"n\n")
    assert code == 1 and "Delete 2 topics with all records (test-a, test-b)? [y/N]" in shown, shown
    assert "nothing was changed" in shown, shown
    code, shown = on_a_terminal(server, *delete, answer=b"y\n")
    assert code == 0 and "deleted test-b" in shown, shown
    code, shown = on_a_terminal(server, *delete)
    assert code == 0 and "no topic begins with test-" in shown, shown
    assert server.stop() == 0


def test_a_topic_that_is_created_again_before_the_answer_is_not_deleted(observed):
    """Only what was found is deleted, and not what has its name by then."""
    server = observed()
    for topic in ("test-a", "test-b"):
        run(server, "publish", topic)
    recreate = [("topics", "delete", "test-a"), ("publish", "test-a")]
    delete = ("topics", "delete", "--prefix", "test-")
    code, shown = on_a_terminal(server, *delete, answer=b"y\n", before=lambda: [run(server, *args) for args in recreate])
    assert code == 1 and "error: test-a: " in shown and "deleted test-b" in shown, shown
    run(server, "topics", "describe", "test-a")
    assert server.stop() == 0


def test_no_color_is_honoured_and_the_log_has_its_settings(observed):
    server = observed()
    for env, coloured in [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True)]:
        _, shown = on_a_terminal(server, "topics", "list", "-v", **env)
        assert "calling" in shown and ("\x1b[" in shown) == coloured, (env, shown)
    assert server.stop() == 0


def test_the_log_of_the_server_has_the_level_and_the_form_that_are_set(tmp_path):
    def log(*flags, **env):
        admin = f"127.0.0.1:{free_port()}"
        command = [BINARY, "serve", "--listen", "127.0.0.1:0", "--admin-listen", admin]
        command += ["--data-dir", str(tmp_path / "data"), *flags]
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("OTEL_", "RUST_"))}
        process = subprocess.Popen(command, env=clean | env, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while subprocess.run([BINARY, "healthcheck", "--addr", admin], capture_output=True, check=False).returncode:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=60)[1]
        assert process.returncode == 0, said
        return said

    assert log(STREAMWAY_LOG_FORMAT="json").startswith("{")
    text = log("--log-format", "text")
    assert "shutting down" in text and not text.startswith("{") and "\x1b" not in text
    assert log("--log-level", "warn", "--log-format", "text") == ""
    assert "DEBUG" in log("--log-level", "debug", "--log-format", "text")
