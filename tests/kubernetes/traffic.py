"""Publishers and subscribers of a topic, two of each for every address.

    traffic.py TOPIC ADDRESS...

answers each line of standard input with "went on" when all have got further, and its end with the counts in JSON, after a check
that nothing acknowledged was lost, repeated or reordered.
"""

import collections
import json
import pathlib
import sys

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "deploy"), str(TESTS / "python")]
from engine import wait  # noqa: E402
import load  # noqa: E402
from load import Publisher, Subscriber, carries_on, settle  # noqa: E402

# Longer than one server is away.
load.CALL_SECONDS = 60


def go_on(publishers, subscribers):
    carries_on(publishers)
    before = [len(subscriber.records) for subscriber in subscribers]
    each = list(zip(subscribers, before, strict=True))
    wait("the subscribers", lambda: all(len(s.records) > n or s.failure for s, n in each))
    for client in (*publishers, *subscribers):
        if client.failure:
            raise client.failure


def main(topic, addresses):
    publishers, subscribers = [], []
    for index, address in enumerate(addresses * 2):
        publishers.append(Publisher(address, topic, f"p{index}", pause=0.01))
        subscribers.append(Subscriber(address, topic))
    for _ in sys.stdin:
        go_on(publishers, subscribers)
        print("went on", flush=True)
    records = settle(addresses[0], topic, publishers, subscribers)
    retries = collections.Counter()
    for client in (*publishers, *subscribers):
        retries += client.retries
    gap = max(subscriber.gap for subscriber in subscribers)
    print(json.dumps({"records": records, "longest_gap_s": round(gap, 1), "retries": retries}))


main(sys.argv[1], sys.argv[2:])
