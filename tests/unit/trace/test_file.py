"""Tables of another schema: read as far as they are known, or named."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.shards import TraceError
from qafel_mpi.trace_schema import SCHEMA_VERSION, STEPS
from tests.unit.trace.made import edited


def test_a_newer_schema_is_read_as_far_as_it_is_known(whole):
    with edited(whole) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION + 1
        steps = file["steps"][:]
        kept = [name for name in STEPS.names or () if name not in ("gap", "uploads")]
        del file["steps"]
        newer = np.zeros(100, dtype=[("novelty", "<f8"), *((n, STEPS[n]) for n in kept)])
        for name in kept:
            newer[name] = steps[name]
        file["steps"] = newer
    with open_trace(whole, salvage=True) as trace:
        assert "update qafel_mpi" in trace.notes[0]
        table = trace.table("steps")
        assert table.dtype == STEPS
        assert (table["version"] == steps["version"]).all()
        assert np.isnan(table["gap"]).all()
        assert (table["uploads"] == -1).all()


def test_a_table_that_is_no_table_is_named(whole):
    with edited(whole) as file:
        del file["steps"]
        file["steps"] = np.arange(5)
    with open_trace(whole) as trace, pytest.raises(TraceError, match=r"/steps, rows 0 to 5: no rows"):
        trace.table("steps")
