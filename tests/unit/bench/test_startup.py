"""A start-up's phases of made-up ranks add up, and what is the benchmark's own counts for nothing."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.bench.startup import phases, tables
from qafel_mpi.startup import Mark

MARKS = [
    Mark("imports", 101.5, 1.25, 40),
    Mark("", 103.0, 2.0, 90),
    Mark("MPI", 103.5, 2.25, 95),
    Mark("data", 104.5, 2.25, 96),
]


def test_a_phase_lasts_from_the_end_of_what_came_before_it_to_its_own():
    found = phases(100.0, MARKS)
    assert found == {
        "imports": Mark("imports", 1.5, 1.25, 40),
        "MPI": Mark("MPI", 0.5, 0.25, 5),
        "data": Mark("data", 1.0, 0.0, 1),
        "all": Mark("all", 3.0, 1.5, 46),
    }


def test_a_row_has_a_sample_for_each_rank_and_the_processor_time_of_all():
    ranks = [phases(100.0, MARKS), phases(99.5, MARKS)]
    rows = list(tables(ranks, "digits"))
    assert [row.parameters["operation"] for row in rows] == ["imports", "MPI", "data", "all"]
    assert rows[0].ours.values == pytest.approx(np.array([1.5, 2.0]))
    assert rows[-1].derived == {
        "processor_s_a_rank": 1.5,
        "processor_s": 3.0,
        "files_opened_a_rank": 46.0,
    }
    assert rows[0].parameters["ranks"] == 2


def test_a_phase_that_a_rank_has_not_passed_is_no_row():
    ranks = [phases(100.0, MARKS), phases(100.0, MARKS[:1])]
    assert [row.parameters["operation"] for row in tables(ranks, "digits")] == ["imports", "all"]
