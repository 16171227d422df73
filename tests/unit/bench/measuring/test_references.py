"""A site's references: missed ones say value and bounds, and a reference that means no row is not passed over."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qafel_mpi.bench.measuring import references
from qafel_mpi.config_text import ConfigError

TOML = """
[[reference]]
system = "n*"
bench = "p2p"
where = { operation = "latency", bytes = 8 }
column = "median_us"
target = 8.0
upper = 0.1
unit = "us"
"""


def load(text: str, tmp_path: Path) -> list[references.Reference]:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return references.load(path)


def test_a_missed_reference_says_value_and_bounds(made, tmp_path: Path):
    (problem,) = references.problems(load(TOML, tmp_path), made.rows, "n1")
    assert "median_us is 10" in problem
    assert "8.8" in problem


def test_a_reference_holds_within_its_bounds_and_on_its_systems_only(made, tmp_path: Path):
    assert references.problems(load(TOML.replace("0.1", "0.5"), tmp_path), made.rows, "n1") == []
    assert references.problems(load(TOML, tmp_path), made.rows, "login") == []


def test_below_the_lower_bound_is_missed_where_more_is_better(made, tmp_path: Path):
    text = (
        TOML.replace("median_us", "gb_per_s").replace("upper = 0.1", "lower = -0.1").replace("8.0", "0.001")
    )
    assert len(references.problems(load(text, tmp_path), made.rows, "n1")) == 1
    assert references.problems(load(text.replace("0.001", "0.0008"), tmp_path), made.rows, "n1") == []


@pytest.mark.parametrize(
    ("target", "lower", "upper", "bounds"),
    [
        (8.0, -0.25, 0.5, (6.0, 12.0)),
        (-8.0, -0.25, 0.5, (-10.0, -4.0)),
        (0.0, -0.25, 0.5, (-0.25, 0.5)),
        (0.0, None, 0.0, (-math.inf, 0.0)),
    ],
)
def test_the_bounds_are_around_the_target_whatever_its_sign(target, lower, upper, bounds):
    reference = references.Reference(
        system="*", bench="p2p", column="median_us", target=target, lower=lower, upper=upper, unit="us"
    )
    assert reference.bounds() == bounds


def test_a_reference_that_means_no_row_is_not_passed_over(made, tmp_path: Path):
    assert (
        "no row"
        in references.problems(load(TOML.replace("bytes = 8", "bytes = 9"), tmp_path), made.rows, "n1")[0]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("upper", "uper"), "uper"),
        (("upper = 0.1", ""), "neither lower nor upper"),
        (("8.0", '"eight"'), "target"),
        (("[[reference]]", "[other]"), "no .*reference"),
        (("[[", "["), "site.toml"),
    ],
)
def test_mistakes_in_the_file_are_named(change, message, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        load(TOML.replace(*change), tmp_path)


def test_a_benchmark_that_does_not_exist_is_no_reference(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"reference 1: bench: .*p2q: did you mean p2p"):
        load(TOML.replace('"p2p"', '"p2q"'), tmp_path)


def test_every_benchmark_can_have_references():
    from qafel_mpi.bench.seeds import _SEEDS

    assert set(references.BENCHES) == {*_SEEDS, "run"}
