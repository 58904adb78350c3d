"""One engine and one image for all tests of the deploy bundle."""

import sys

import pytest
from engine import ROOT, Engine

sys.path.insert(0, str(ROOT / "tests" / "python"))


@pytest.fixture(scope="session")
def engine():
    engine = Engine()
    try:
        engine.build()
        yield engine
    finally:
        engine.close()
