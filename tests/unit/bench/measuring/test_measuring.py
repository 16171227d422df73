"""Benchmarks without MPI: statistics, when to stop, files, check, compare, references."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest

from qafel_mpi.bench.measuring import check, compare, references, result, timing
from qafel_mpi.bench.measuring.result import Result, ResultError, Row
from qafel_mpi.bench.measuring.timing import Limits, Samples
from qafel_mpi.bench.seeds import seeds
from qafel_mpi.commands.bench.app import bench
from qafel_mpi.commands.bench.measure import _judge
from qafel_mpi.commands.process import ExitCode
from qafel_mpi.config_text import ConfigError


def samples(values, loops: int = 1000) -> Samples:
    return Samples(np.asarray(values, dtype=float), np.array([1.0]), loops)


def row(values, reference=None, **fields) -> Row:
    against = None if reference is None else samples(reference)
    return Row("p2p", fields.pop("parameters", {"bytes": 8}), samples(values), against, "raw", **fields)


def steady(median: float = 1e-5, n: int = 200, seed: int = 0) -> np.ndarray:
    return median * (1 + 0.01 * np.random.default_rng(seed).standard_normal(n))


def uneven() -> np.ndarray:
    """From 0.8 to 1.2 of 10 µs, evenly spread."""
    return 1e-5 * np.random.default_rng(3).permutation(np.linspace(0.8, 1.2, 200))


# --- the median's interval ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [6, 10, 25, 70, 101, 1000])
def test_the_interval_covers_the_median_in_at_least_95_of_100_cases(n):
    """Skewed values, median ln 2; 4,000 draws with seed 1: a true 95% falls below 94% with probability under 0.2%."""
    draws = np.random.default_rng(1).exponential(size=(4000, n))
    covered = np.mean([low <= math.log(2) <= high for low, high in map(timing.median_interval, draws)])
    assert 0.94 < covered < 0.995


def test_the_interval_is_made_of_the_table_s_order_statistics():
    """Of 10 values the 2nd and 9th, of 20 the 6th and 15th: Conover 1999, table A3 (at least 95%)."""
    assert timing.median_interval(np.arange(1.0, 11)) == (2, 9)
    assert timing.median_interval(np.arange(1.0, 21)) == (6, 15)


def test_too_few_values_have_no_width_that_could_stop():
    assert timing.relative_width(np.ones(5)) == math.inf
    assert timing.relative_width(np.ones(6)) == 0


# --- sampling -----------------------------------------------------------------------------------------------


def case(values):
    """A case that returns the values given, and counts."""
    it = iter(values)
    return lambda: next(it)


def test_a_steady_case_stops_early_and_a_noisy_one_goes_to_its_limit():
    limits = Limits(seconds=60, width=0.02, least=20, most=500)
    calm = timing.measure(lambda: 1.0, limits)
    assert len(calm.values) == 20
    rng = np.random.default_rng(0)
    noisy = timing.measure(lambda: float(rng.lognormal(0, 2)), limits)
    assert len(noisy.values) == 500


def test_warmups_are_kept_and_kept_apart():
    numbers = iter(range(1000))
    taken = timing.measure(lambda: float(next(numbers)), Limits(seconds=60, least=20, most=20, warmups=7))
    assert taken.warmups.tolist() == list(range(7))
    assert taken.values.tolist() == list(range(7, 27))


def test_time_is_a_limit_too():
    rng = np.random.default_rng(0)
    timing_s = timing.timed(lambda: sum(range(int(rng.integers(1, 20_000)))))
    taken = timing.measure(timing_s, Limits(seconds=0.1, width=0.0, least=10, most=10**9))
    assert len(taken.values) >= 10
    assert taken.values.sum() < 1.0


@pytest.mark.parametrize("names", ["ab", "abc", "abcd"])
def test_cases_are_taken_in_turns_and_none_follows_itself(names):
    """Of three and more each follows at least two others, in whichever batches the rounds come."""
    order: list[str] = []

    def of(name):
        return lambda: order.append(name) or 1.0

    timing.interleave({n: of(n) for n in names}, Limits(seconds=60, least=25, most=25, warmups=2))
    rounds = [order[i : i + len(names)] for i in range(0, len(order), len(names))]
    assert len(rounds) == 27
    assert all(sorted(found) == list(names) for found in rounds)
    follows = set(itertools.pairwise(order))
    assert all(a != b for a, b in follows)
    assert all(sum(b == name for _, b in follows) >= min(2, len(names) - 1) for name in names)


def test_rank_0_decides_how_many_rounds_there_are():
    """Another rank's samples never settle; it takes what rank 0 says."""
    said = iter([2, 10, 10, 3, 0])
    rng = np.random.default_rng(0)
    taken = timing.measure(
        lambda: float(rng.lognormal(0, 2)), Limits(seconds=60), agree=lambda own: next(said)
    )
    assert (len(taken.warmups), len(taken.values)) == (3, 23)


def test_calibrated_loops_take_long_enough_for_the_clock():
    loops = timing.calibrate(lambda: None, least_s=1e-4)
    assert min(timing.timed(lambda: None, loops)() * loops for _ in range(3)) > 2e-5


def test_a_pair_gives_the_ratio_as_speed_and_the_difference_as_cost():
    paired = timing.pair(samples([2.0, 4.0, 8.0, 2.0, 4.0, 8.0]), samples([1.0, 2.0, 4.0, 1.0, 2.0, 4.0]))
    assert paired.ratio == 0.5  # whatever the machine did meanwhile to both
    assert paired.ratio_interval == (0.5, 0.5)
    assert paired.extra_s == 2.0


# --- files --------------------------------------------------------------------------------------------------


HOSTS = [{"host": f"n{i}", "cpu": "c", "memory_bytes": 8 << 30, "ranks": 1} for i in range(1, 7)]


@pytest.fixture
def made() -> Result:
    rows = [
        row(
            steady(), steady(2e-5), wrong=0, bytes_moved=8.0, parameters={"operation": "latency", "bytes": 8}
        ),
        row(steady(3e-3), derived={"hidden_share": 0.9}, parameters={"operation": "x", "bytes": 16}),
    ]
    about = {"host": "n1", "hosts": HOSTS, "binding": ["0", "1"], "seeds": {"content": 1}}
    return Result("p2p", rows, about | {"thread_level": "multiple", "interconnect": {"settings": {}}})


@pytest.mark.parametrize("suffix", ["json", "h5"])
def test_a_file_gives_back_every_sample_and_column(made, suffix, tmp_path: Path):
    path = tmp_path / f"new/a.{suffix}"
    (made.write_json if suffix == "json" else made.write_hdf5)(path)
    again = result.read(path)
    assert again.provenance == made.provenance
    for ours, theirs in zip(made.rows, again.rows, strict=True):
        assert ours.key == theirs.key
        for name, values in ours.series().items():
            np.testing.assert_allclose(theirs.series()[name], values, atol=1e-12)
        assert list(ours.columns()) == list(theirs.columns())


def test_the_json_has_what_the_design_promises(made, tmp_path: Path):
    made.write_json(tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    assert {"bench", "rows", "provenance"} <= content.keys()
    first = content["rows"][0]
    assert first["operation"] == "latency"
    assert first["bytes"] == 8
    assert first["median_us"] == pytest.approx(10, rel=0.01)
    assert first["ci95_us"][0] < first["median_us"] < first["ci95_us"][1]
    assert first["ratio"] == pytest.approx(2, rel=0.02)
    assert first["reference"] == "raw"
    assert first["bytes_moved"] == 8
    assert first["gb_per_s"] == pytest.approx(8e-4, rel=0.01)
    assert len(first["values_us"]) == first["iterations"] == 200
    assert "ratio" not in content["rows"][1]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"bench": "p2p"}', '{"bench": "p2p", "rows": [{}]}'])
def test_a_file_that_is_no_result_is_named(content, tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=r"a\.json: not a whole result"):
        result.read(path)
    with pytest.raises(ResultError, match="No such file"):
        result.read(tmp_path / "none.h5")


# --- check --------------------------------------------------------------------------------------------------


def test_a_steady_result_is_believed():
    believed = row(steady(), steady(2e-5), wrong=0)
    assert check.doubts(believed) == []
    assert check.summary([believed, row(steady())]) == "1 of 1 ratios and 2 of 2 times are to be believed"


@pytest.mark.parametrize(
    ("values", "loops", "word"),
    [
        (steady(n=9), 1000, "too few"),
        (steady(5e-6), 1, "too short"),
        (np.random.default_rng(0).lognormal(-11, 2, 200), 1000, "spread"),
        (np.where(np.arange(200) % 9 < 2, 1e-4, uneven()), 1000, "outliers: 23%"),
        (np.where(np.arange(200) % 3 == 0, steady(1.5e-5), steady()), 1000, "bimodal"),
        (np.concatenate([steady(n=100), steady(1.3e-5, n=100)]), 1000, "drift: the last third is +30%"),
    ],
)
def test_each_defect_has_its_reason(values, loops, word):
    bad = Row("p2p", {}, samples(values, loops))
    assert any(doubt.claim == "time" and doubt.reason.startswith(word) for doubt in check.doubts(bad))
    assert check.summary([bad]) == "0 of 1 times are to be believed"


def test_a_tail_that_does_not_move_the_median_does_not_count_against_it():
    assert check.doubts(row(np.where(np.arange(200) % 10 == 3, 1e-4, steady()))) == []


def test_what_disturbs_both_alike_counts_against_the_time_and_not_against_the_ratio():
    load = np.repeat([1.0, 1.4], 100)
    found = check.doubts(row(load * steady(), load * steady(2e-5, seed=1)))
    assert {doubt.claim for doubt in found} == {"time"}


def test_a_ratio_that_drifts_is_not_believed_where_our_time_is():
    found = check.doubts(row(steady(), np.repeat([1.0, 1.4], 100) * steady(2e-5, seed=1)))
    assert {doubt.claim for doubt in found} == {"ratio"}
    assert any(doubt.reason.startswith("drift: the last third is +40%") for doubt in found)


def test_a_reference_that_is_too_short_is_named_as_such():
    short = Row("p2p", {}, samples(steady()), samples(steady(1e-6), loops=1))
    assert any(doubt.reason.startswith("reference: too short") for doubt in check.doubts(short))


def test_wrong_content_is_never_believed():
    wrong = row(steady(), steady(), wrong=3)
    assert check.doubts(wrong)[0].reason.startswith("3 wrong")
    assert check.summary([wrong]) == "0 of 1 ratios and 0 of 1 times are to be believed"


@pytest.mark.parametrize("draw", ["normal", "uniform", "exponential", "lognormal"])
def test_one_mode_is_not_called_two(draw):
    """300 values, 200 seeds: no false alarm."""
    for seed in range(200):
        rng = np.random.default_rng(seed)
        assert check.two_modes(1e-5 * (3 + getattr(rng, draw)(size=300) / 3)) is None


# --- compare ------------------------------------------------------------------------------------------------


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


def test_a_difference_of_times_that_are_not_believed_says_so(made):
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


# --- provenance and exit codes ------------------------------------------------------------------------------


def test_every_benchmark_says_its_seeds():
    every = [command.name or command.callback.__name__ for command in bench.registered_commands]
    measuring = [name for name in every if name not in ("all", "check", "compare")]
    found = seeds(measuring)
    assert all(found[name] for name in measuring)
    assert found["virtual"] == {"cnn": 0, "logistic": 0}


@pytest.mark.parametrize(
    ("wrong", "missed", "code"),
    [(0, False, ExitCode.DONE), (2, True, ExitCode.FAILED), (0, True, ExitCode.TARGET_NOT_REACHED)],
)
def test_wrong_content_fails_before_a_missed_reference(made, tmp_path, wrong, missed, code):
    rows = [row(steady(), wrong=wrong, parameters=made.rows[0].parameters)]
    reference = load(TOML.replace("8.0", "5.0" if missed else "10.0"), tmp_path)
    assert _judge(Result("p2p", rows, made.provenance), reference) == code


# --- references ---------------------------------------------------------------------------------------------

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
