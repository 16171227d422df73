"""ReFrame's tuples bound what our references bound, by ReFrame's own word where it is here."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from qafel_mpi.bench.measuring import references
from qafel_mpi.bench.measuring.references import Reference
from qafel_mpi.bench.measuring.reframe import reframe, variables
from qafel_mpi.config_text import ConfigError
from tests.unit.bench.measuring.made import row, steady


def reference(target=10.0, lower=None, upper=0.1, column="median_us", **where) -> Reference:
    return Reference(
        system="n1",
        bench="p2p",
        where=where,
        column=column,
        target=target,
        lower=lower,
        upper=upper,
        unit="us",
    )


def their_bounds(target: float, lower: float | None, upper: float | None) -> tuple[float, float]:
    """As ReFrame 4.10's reference_bounds has them, with what it refuses (reframe/utility/sanity.py)."""
    if target > 0:
        assert lower is None or -1 <= lower <= 0
    if target < 0:
        assert upper is None or 0 <= upper <= 1

    def bound(threshold: float | None, none: float) -> float:
        if threshold is None:
            return none
        if target == 0:
            return threshold
        return target * (1 + (threshold if target > 0 else -threshold))

    return bound(lower, -math.inf), bound(upper, math.inf)


def close(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return all(x == pytest.approx(y, rel=1e-9, abs=1e-9) for x, y in zip(a, b, strict=True))


numbers = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


@given(numbers, st.none() | st.floats(-3, 0), st.none() | st.floats(0, 3))
def test_reframes_bounds_are_ours_whatever_the_sign_of_the_target(target, lower, upper):
    assume(lower is not None or upper is not None)
    ours = reference(target, lower, upper)
    *judged, unit = reframe(ours)
    assert unit == "us"
    assert close(their_bounds(*judged), ours.bounds())


@pytest.mark.parametrize(
    ("target", "lower", "upper"),
    [
        (8, -0.25, 0.5),
        (8, -1.5, None),
        (0, -0.25, 0.5),
        (0, None, 0),
        (-8, -0.25, 0.5),
        (-8, -3, 2),
        (-8, None, 1),
    ],
)
def test_reframe_itself_has_the_same_bounds(target, lower, upper):
    sanity = pytest.importorskip(
        "reframe.utility.sanity", reason="needs reframe-hpc (pip install -e .[site])"
    )
    ours = reference(target, lower, upper)
    *judged, _ = reframe(ours)
    low, high = sanity.reference_bounds(*judged)
    assert close((-math.inf if low is None else low, math.inf if high is None else high), ours.bounds())
    assert close(their_bounds(*judged), ours.bounds()), "the copy of it above"


def test_every_row_has_a_variable_and_every_reference_a_judge(made):
    found = variables(
        made.rows, [reference(operation="latency"), reference(column="ratio", operation="latency")], "n1"
    )
    assert list(found) == ["latency_bytes8_median_us", "latency_bytes8_ratio", "x_bytes16_median_us"]
    judged = {name: entry["reference"] for name, entry in found.items()}
    assert judged["latency_bytes8_median_us"] == (10.0, None, 0.1, "us")
    assert judged["x_bytes16_median_us"] is None
    assert found["x_bytes16_median_us"]["value"] == pytest.approx(3000, rel=0.01)


def test_two_references_for_one_column_are_two_variables(made):
    found = variables(made.rows[:1], [reference(), reference(upper=0.5)], "n1")
    assert list(found) == ["latency_bytes8_median_us", "latency_bytes8_median_us_2"]


def test_references_of_other_systems_judge_nothing(made):
    assert all(entry["reference"] is None for entry in variables(made.rows, [reference()], "n2").values())
    assert (
        references.elsewhere([reference()], made.rows, "n2")
        == "no reference is for this system, n2; there are some for n1"
    )
    assert references.elsewhere([reference()], made.rows, "n1") is None
    assert references.elsewhere([reference()], [], "n2") is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (reference(operation="latencie"), "no row has {'operation': 'latencie'}"),
        (reference(column="mediam_us"), "no column mediam_us; did you mean median_us"),
        (reference(column="reduction"), "no column reduction"),
    ],
)
def test_a_name_that_is_misspelt_is_refused_and_misses_in_bench(wrong, message, made):
    with pytest.raises(ConfigError, match=message):
        variables(made.rows, [wrong], "n1")
    assert any(message.partition(";")[0] in line for line in references.problems([wrong], made.rows, "n1"))


def test_names_are_words_to_reframe():
    odd = row(steady(), parameters={"operation": "vector bandwidth", "codec": "a:b*", "none": None, "d": 5})
    assert list(variables([odd], [], "n1")) == ["vector_bandwidth_a_b__d5_median_us"]
