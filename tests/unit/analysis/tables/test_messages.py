"""Medians and tails of a run's messages, from a made-up one whose times are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from qafel_analysis.read.traffic import EDGES_S, Traffic
from qafel_analysis.tables.messages import kinds, messages_grid

# 1 ms most of the time; one in a hundred takes 10 ms, three in a thousand 100 ms.
TIMES_S = np.repeat([1e-3, 10e-3, 100e-3], [987, 10, 3])


def made(bound_s: float) -> Traffic:
    latency = pd.DataFrame({"kind": "update", "seconds": TIMES_S, "bound_s": bound_s})
    counts, _ = np.histogram(TIMES_S, EDGES_S)
    return Traffic(2, kinds={"update": [1000, 1000, 5, 6]}, sends_s={"update": counts}, latency=latency)


def test_tails_are_those_of_the_times_to_a_bin_s_width():
    (row,) = kinds(made(bound_s=1e-5), "a.h5")
    for name, wanted_s in (("median", 1e-3), ("p99", 10e-3), ("p999", 100e-3)):
        assert row[f"send_{name}_s"] == pytest.approx(wanted_s, rel=0.13)
        assert row[f"latency_{name}_s"] == pytest.approx(wanted_s, rel=0.01)
    assert row["clock_error_s"] == pytest.approx(1e-5)


def test_where_the_clocks_hide_the_median_a_tail_that_is_longer_is_still_told():
    (row,) = kinds(made(bound_s=2e-3), "a.h5")
    assert row["latency_median_s"] is None
    assert row["latency_p99_s"] == pytest.approx(10e-3, rel=0.01)
    assert kinds(made(bound_s=float("nan")), "a.h5")[0]["latency_p999_s"] is None


def test_every_heading_of_the_table_has_its_column():
    grid = messages_grid(kinds(made(bound_s=1e-5), "a.h5"))
    cells = dict(zip(grid.headings, grid.rows[0], strict=True))
    assert cells["latency,\n99.9%"] == "100 ms"
    assert cells["clock\nerror"] == "10 µs"


def test_histograms_hold_every_message_under_what_it_took():
    found = made(bound_s=1e-5).durations()
    assert {what: {kind: int(counts.sum()) for kind, counts in by.items()} for what, by in found.items()} == {
        "send": {"update": 1000},
        "latency": {"update": 1000},
    }
