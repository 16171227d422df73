"""References out of results: they hold for what they came from, and read back as they were written."""

from __future__ import annotations

import pytest

from qafel_mpi.bench.measuring import references, targets
from tests.unit.bench.measuring.made import row, steady


def bandwidth(seconds: float, **parameters):
    about = {"operation": "bandwidth", "bytes": 4096} | parameters
    return row(steady(seconds), bytes_moved=4096.0, parameters=about, wrong=0)


def read_back(found, tmp_path):
    path = tmp_path / "site.toml"
    path.write_text(targets.as_toml(found))
    return references.load(path)


def test_what_is_written_is_what_is_read(made, tmp_path):
    rows = [*made.rows, bandwidth(1e-6), row(steady(), parameters={"a b": True, "c": 0.5, "d": 'q"\\'})]
    found = targets.measured(rows, "n*", 0.2)
    assert len(found) == len(rows)
    assert read_back(found, tmp_path) == found


def test_results_hold_against_their_own_references_and_worse_ones_do_not(made):
    rows = [*made.rows, bandwidth(1e-6)]
    found = targets.measured(rows, "n1", 0.1)
    assert references.problems(found, rows, "n1") == []
    worse = [row(r.ours.values * 1.2, parameters=r.parameters, bytes_moved=r.bytes_moved) for r in rows]
    assert len(references.problems(found, worse, "n1")) == len(rows)
    better = [row(r.ours.values / 5, parameters=r.parameters, bytes_moved=r.bytes_moved) for r in rows]
    assert references.problems(found, better, "n1") == []


def test_a_rate_is_bounded_below_and_a_time_above(made):
    (rate,) = targets.measured([bandwidth(1e-6)], "*", 0.1)
    assert (rate.column, rate.lower, rate.upper, rate.unit) == ("gb_per_s", -0.1, None, "GB/s")
    time = targets.measured(made.rows, "*", 0.1)[0]
    assert (time.column, time.lower, time.upper, time.unit) == ("median_us", None, 0.1, "us")


def test_a_chosen_column_is_that_of_the_rows_that_have_it(made):
    (ratio,) = targets.measured(made.rows, "*", 0.1, ["ratio"])
    assert (ratio.column, ratio.lower, ratio.where) == ("ratio", -0.1, {"operation": "latency", "bytes": 8})
    with pytest.raises(ValueError, match="no row has a number in the column rato"):
        targets.measured(made.rows, "*", 0.1, ["rato"])


def test_of_results_with_the_same_row_the_worst_is_the_target():
    rows = [bandwidth(2e-6), bandwidth(4e-6), bandwidth(3e-6)]
    (found,) = targets.measured(rows, "*", 0.01)
    assert references.problems([found], rows, "x") == []
    assert found.target == pytest.approx(4096 / 4e-6 / 1e9, rel=0.02)
