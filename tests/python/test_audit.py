"""The audit log of a server whose standard error nobody reads."""

import re
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
from conftest import BINARY
from real import await_port, free_port
from streamway.v1 import topic_pb2, topic_pb2_grpc

# More than the queue of 4096 records and a pipe of 64 KiB hold.
CHANGES = 6000


def test_records_that_standard_error_does_not_take_are_dropped_counted_and_told(tmp_path):
    grpc_port, admin_port = free_port(), free_port()
    command = [BINARY, "serve", "--listen", f"127.0.0.1:{grpc_port}", "--admin-listen", f"127.0.0.1:{admin_port}"]
    command += ["--data-dir", str(tmp_path / "data"), "--http-listen", "off", "--log-level", "error"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        await_port(grpc_port)
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            topics = topic_pb2_grpc.TopicServiceStub(channel)
            topics.CreateTopic(topic_pb2.CreateTopicRequest(topic=topic_pb2.Topic(name="t")))

            def update(n):
                retention = topic_pb2.Retention(max_records=n + 1)
                topic = topic_pb2.Topic(name="t", retention=retention)
                topics.UpdateTopic(topic_pb2.UpdateTopicRequest(topic=topic), timeout=60)

            # No call waits for the log.
            with ThreadPoolExecutor(32) as pool:
                list(pool.map(update, range(CHANGES)))
        with urllib.request.urlopen(f"http://127.0.0.1:{admin_port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        dropped = int(re.search(r"^streamway_audit_dropped_total (\d+)$", text, re.M)[1])
        assert dropped > 0, text
        lines = []
        reader = threading.Thread(target=lambda: lines.extend(process.stderr), daemon=True)
        reader.start()
        process.terminate()
        assert process.wait(timeout=60) == 0
        reader.join(timeout=60)
    finally:
        process.kill()
        process.wait(timeout=10)
    told = sum(int(lost) for line in lines for lost in re.findall(r'"?lost"?[:=](\d+)', line))
    written = sum("topic.update" in line for line in lines)
    assert told == dropped and written + told == CHANGES, (told, dropped, written, lines[-3:])
