"""Two results side by side: what differs is seen, chance is not, unlike hosts are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.bench.measuring import compare
from qafel_mpi.bench.measuring.result import Result
from tests.unit.bench.measuring.made import HOSTS, row, steady


def test_twice_the_time_is_seen_and_the_same_time_is_not(made):
    slower = Result(
        made.bench, [row(steady(2e-5, seed=5), parameters=made.rows[0].parameters)], made.provenance
    )
    pairs, alone = compare.compare([made], [slower])
    assert len(pairs) == 1
    assert pairs[0].change == pytest.approx(2, rel=0.02)
    assert "slower" in pairs[0].verdict
    assert [r.parameters["operation"] for r in alone] == ["x"]
    same = Result(
        made.bench, [row(steady(1e-5, seed=6), parameters=made.rows[0].parameters)], made.provenance
    )
    assert compare.compare([made], [same])[0][0].verdict == "no difference seen"


def test_what_differs_from_launch_to_launch_is_in_the_interval_of_several(made):
    """Launches 5% apart, 1% within: one of each seems to tell A from B, five of each don't."""
    rng = np.random.default_rng(0)

    def launch(seed: int) -> Result:
        rows = [row(steady(1e-5 * (1 + 0.05 * rng.standard_normal()), seed=seed), parameters={"bytes": 8})]
        return Result("p2p", rows, made.provenance)

    a, b = [launch(seed) for seed in range(5)], [launch(seed) for seed in range(5, 10)]
    verdicts = [compare.compare([one], [other])[0][0].verdict for one, other in zip(a, b, strict=True)]
    assert sum(verdict != "no difference seen" for verdict in verdicts) >= 3
    assert compare.compare(a, b)[0][0].verdict == "no difference seen"


@pytest.mark.parametrize(
    ("launches", "said"), [((1, 5), "not in the intervals"), ((2, 5), "too narrow"), ((5, 6), None)]
)
def test_compare_says_what_its_intervals_leave_out(launches, said):
    chance, *more = compare.caveats(*launches, 40)
    assert "about 2.0" in chance
    assert len(more) == (said is not None)
    assert said is None or said in more[0]


def test_a_difference_of_unreliable_times_says_so(made):
    wide = np.random.default_rng(0).lognormal(-8, 2, 200)
    after = Result(made.bench, [row(wide, parameters=made.rows[0].parameters)], made.provenance)
    assert compare.compare([made], [after])[0][0].verdict.endswith("times slower, times in doubt")


@pytest.mark.parametrize(
    ("changed", "lines"),
    [
        ({}, []),
        (
            {"hosts": [*HOSTS[:5], {**HOSTS[5], "cpu": "d", "memory_bytes": 1}]},
            ["hosts[5].cpu: 'c' against 'd'", f"hosts[5].memory_bytes: {8 << 30} against 1"],
        ),
        ({"hosts": HOSTS[:1]}, ["hosts: 6 against 1"]),
        ({"binding": ["0", "0"]}, ["binding[1]: '1' against '0'"]),
        (
            {"interconnect": {"settings": {"OMPI_MCA_mpi_yield_when_idle": "1"}}},
            ["interconnect.settings.OMPI_MCA_mpi_yield_when_idle: None against '1'"],
        ),
        ({"thread_level": "single"}, ["thread_level: 'multiple' against 'single'"]),
    ],
)
def test_unlike_hosts_are_told_apart_by_what_differs(made, changed, lines):
    """Also by what differs on a host that is not rank 0's."""
    assert (
        compare.unlike([made, made, Result(made.bench, made.rows, {**made.provenance, **changed})]) == lines
    )


def test_of_many_unlike_hosts_three_are_shown(made):
    others = [{**host, "cpu": "d"} for host in HOSTS]
    lines = compare.unlike([made, Result(made.bench, made.rows, {**made.provenance, "hosts": others})])
    assert len(lines) == 4
    assert lines[-1] == "hosts: 3 more differ"
