"""One Kubernetes for all tests of this directory. tests/run starts it, and names it in TESTS_CLUSTER and CLUSTER_RUN; otherwise
the tests start one.
"""

import os
import pathlib
import sys
import tempfile

import pytest

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "deploy"), str(TESTS / "python")]
from engine import own_engine  # noqa: E402
from images import save  # noqa: E402
from installed import Cluster, Installed  # noqa: E402
from shown import pytest_runtest_logstart, pytest_runtest_makereport  # noqa: E402, F401 (hooks)

# Refused connections are expected here, and gRPC would log each of them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@pytest.fixture(scope="session")
def cluster():
    cluster = Cluster()
    if "TESTS_CLUSTER" in os.environ:
        yield cluster
        return
    os.environ["CLUSTER_RUN"] = tempfile.mkdtemp(prefix="swk-")
    cluster.run("build", timeout=3600)
    try:
        with tempfile.TemporaryDirectory() as place, own_engine() as (engine, _):
            engine.build()
            cluster.run("up", Cluster.NODES)
            cluster.run("load", save(engine, pathlib.Path(place)), timeout=900)
        yield cluster
    finally:
        cluster.run("down", check=False)


@pytest.fixture
def place(cluster):
    """A new namespace that enforces the pod security standard `restricted`."""
    installed = Installed(cluster)
    yield installed
    installed.remove()
