"""A trace for the tests of this folder."""

from pathlib import Path

import pytest

from tests.unit.trace.made import whole_trace


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A merged trace of 3 ranks, a.h5, with its shards beside it: 3,000 messages, 100 steps."""
    return whole_trace(tmp_path / "a.h5")
