"""Resident bytes that the server has for each idle follower by server-sent events: docs/performance.md, HTTP.

    followers.py PORT PID http1|http2 [COUNT]

Start the server anew for each run, as memory that was used once stays resident, and publish a record to the topic t. Over HTTP/2 a
connection carries 100 followers, opened ten at a time.
"""

import pathlib
import socket
import sys
import time

HTTP1 = b"GET /v1/topics/t/records HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS = [
    (b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/v1/topics/t/records"), (b":authority", b"localhost"),
    (b"accept", b"text/event-stream"),
]
STREAMS, AT_A_TIME = 100, 10


def resident(pid):
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def read_until(connection, count, got=b""):
    while got.count(b"CAUGHT_UP") < count:
        got += connection.recv(65536) or sys.exit("the server closed a connection")
    return got


def follow(port, kind):
    """Opens a connection and its followers, and returns both."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    if kind == "http1":
        connection.sendall(HTTP1)
        read_until(connection, 1)
        return connection, 1
    # Literal fields without Huffman's code; the second SETTINGS acknowledges the server's.
    block = b"".join(b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in HEADERS)
    connection.sendall(PREFACE + frame(4, 0, 0) + frame(4, 1, 0))
    got = b""
    for first in range(0, STREAMS, AT_A_TIME):
        connection.sendall(b"".join(frame(1, 5, 2 * number + 1, block) for number in range(first, first + AT_A_TIME)))
        got = read_until(connection, first + AT_A_TIME, got)
    return connection, STREAMS


def main(port, pid, kind, count=10000):
    before, connections, followers = resident(pid), [], 0
    while followers < int(count):
        connection, more = follow(int(port), kind)
        connections.append(connection)
        followers += more
    time.sleep(3)
    print(f"{followers} followers over {kind}: {(resident(pid) - before) / followers:.0f} bytes each")


if __name__ == "__main__":
    main(*sys.argv[1:])
