"""One engine and one image for all tests of the deploy bundle."""

import os
import sys

import pytest
from engine import ROOT, Engine

# What a client is refused is asked for: not worth a line each.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
sys.path.insert(0, str(ROOT / "tests" / "python"))


@pytest.fixture(scope="session")
def bare_engine():
    """Without the image, for those who build one of their own."""
    engine = Engine()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="session")
def engine(bare_engine):
    bare_engine.build()
    return bare_engine
