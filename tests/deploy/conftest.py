"""One engine and one image for all tests of the deploy bundle."""

import os
import pathlib

import pytest
from engine import CACHE, Engine, own_engine
from shown import Log, pytest_runtest_logstart, pytest_runtest_makereport  # noqa: F401 (hooks)

# Refused connections are expected here, and gRPC would log each of them.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


@pytest.fixture(scope="session")
def bare_engine():
    """An engine without the image, for tests that build one of their own."""
    Log("dockerd", CACHE / "dockerd.log")
    if "TESTS_ENGINE" in os.environ:
        yield Engine(pathlib.Path((pathlib.Path(os.environ["TESTS_ENGINE"]) / "socket").read_text()))
        return
    with own_engine() as (engine, _):
        yield engine


@pytest.fixture(scope="session")
def engine(bare_engine):
    if "TESTS_ENGINE" not in os.environ:
        bare_engine.build()
    return bare_engine
