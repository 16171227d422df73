"""A result for the tests of this folder."""

import pytest

from qafel_mpi.bench.measuring.result import Result
from tests.unit.bench.measuring.made import result


@pytest.fixture
def made() -> Result:
    return result()
