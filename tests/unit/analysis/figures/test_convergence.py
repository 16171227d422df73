"""Curves of a run: what they may run against."""

from __future__ import annotations

import pytest
from qafel_analysis.figures.axes import AGAINST
from qafel_analysis.figures.convergence import curve
from qafel_analysis.read.rows import row

from qafel_mpi.config import load
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.trace.reader import open_trace


@pytest.mark.parametrize("algorithm", ["qafel", "quafl"], ids=["a broadcast a step", "downloads one by one"])
def test_a_curve_ends_with_the_bytes_that_the_run_s_row_has(algorithm, tmp_path):
    chosen = ("clock.kind=virtual", "stop.steps=6", "server.buffer_size=2")
    rates = ("stop.uploads=1000", "evaluation.every_steps=2", f"algorithm={algorithm}")
    virtual.run(load("digits", [*chosen, *rates]), None, tmp_path / "a.h5")
    with open_trace(tmp_path / "a.h5") as trace:
        found = curve(trace)
    whole, last = row(tmp_path / "a.h5"), found.iloc[-1]
    assert set(AGAINST) <= set(found.columns)
    assert last["wire_bytes_up"] == whole["wire_bytes_up"] > whole["payload_bytes_up"]
    assert last["wire_bytes"] == whole["wire_bytes_up"] + whole["wire_bytes_down"]
