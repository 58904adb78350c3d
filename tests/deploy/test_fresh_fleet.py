"""A new NATS cluster of the fleet's manifests forms whatever the order of its servers' starts and names."""

import os
import pathlib
import subprocess
import sys

from test_rolling import NATS, fleet

HERE = pathlib.Path(__file__).resolve().parent
# With nats-server 2.10.27 one in sixteen does not form.
ROUNDS = 60 if os.environ.get("TESTS_SOAK") else 3


def test_every_new_cluster_counts_all_its_servers(tmp_path):
    fleet(tmp_path)
    nats = os.environ.get("TESTS_NATS", NATS)
    command = ["unshare", "--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    command += [sys.executable, HERE / "fresh.py", nats, tmp_path, ROUNDS]
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60 + ROUNDS * 65, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("formed after") == ROUNDS
