"""A comparison in one sentence, computed from made-up traces."""

from __future__ import annotations

import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.example import Example, write
from qafel_analysis.read import rows
from qafel_analysis.tables.compare import groups
from qafel_analysis.tables.sentence import sentence
from typer.testing import CliRunner

from tests.unit.analysis.tables.test_compare import make


@pytest.fixture
def made(tmp_path):
    """made(name, **settings) -> the path of a trace."""
    return lambda name, **settings: write(tmp_path / f"{name}.h5", Example(messages=2000, **settings))


def said(*paths) -> str:
    return sentence(groups([rows.row(path) for path in paths]))


def test_bytes_and_uploads_are_shares_of_fedbuffs(made):
    ours = [made(f"q{seed}", seed=seed, uploads_to_target=400) for seed in (0, 1)]
    theirs = [made(f"f{seed}", seed=seed, algorithm="fedbuff", uploads_to_target=500) for seed in (0, 1)]
    found = groups([rows.row(path) for path in (*ours, *theirs)])
    qafel, fedbuff = found
    uploads = qafel.mean("uploads_to_target") / fedbuff.mean("uploads_to_target")
    share = uploads * Example().payload_bytes / Example(algorithm="fedbuff").payload_bytes
    assert uploads == 0.8
    assert sentence(found) == (
        f"To reach accuracy ≥ 0.9 on made-up, QAFeL needed {share:.0%} of the upload bytes and 80% of the uploads "
        "that FedBuff needed (geometric means over 2 runs each)."
    )
    assert share == pytest.approx(0.1016, abs=1e-4)


def test_settings_of_one_algorithm_are_told_apart_and_a_single_run_is_said(made):
    words = said(made("a"), made("b", bits=2), made("f", algorithm="fedbuff"))
    assert words.count("; to reach accuracy ≥ 0.9 on made-up, qafel, ") == 1
    assert "qsgd 2 bits up" in words
    assert "qsgd 4 bits up" in words
    assert words.count("(one run each)") == 2


def test_runs_that_never_reached_the_target_are_counted_or_said(made):
    never = made("never", uploads_to_target=10**6)
    fedbuff = made("f", algorithm="fedbuff")
    assert said(never, fedbuff) == ("To reach accuracy ≥ 0.9 on made-up, no run of QAFeL was long enough.")
    assert said(made("q", seed=1), never, fedbuff).endswith("(1 of 2 and 1 of 1 runs reached it).")


def test_a_target_that_was_met_before_the_first_upload_is_no_comparison(tmp_path):
    runs = [make(tmp_path, "q", reached=0), make(tmp_path, "f", reached=0, algorithm="fedbuff")]
    assert said(*runs) == (
        "To reach accuracy ≥ 0.9 on None, a run of QAFeL or FedBuff was there before its first upload, so nothing is "
        "compared."
    )
    costs = {key: value for key, value in rows.row(runs[0]).items() if key.endswith("_to_target")}
    assert set(costs.values()) == {0}, "and none is unknown"


def test_where_runs_of_both_missed_the_target_nothing_is_known(tmp_path):
    runs = [
        make(tmp_path, f"{algorithm}{seed}", algorithm=algorithm, seed=seed, reached=(100, None)[seed])
        for algorithm in ("qafel", "fedbuff")
        for seed in (0, 1)
    ]
    assert said(*runs) == (
        "To reach accuracy ≥ 0.9 on None, some runs of both QAFeL and FedBuff were not long enough, so nothing is "
        "compared."
    )


def test_without_fedbuff_nothing_is_compared(made):
    assert said(made("q")).startswith("No setting has a FedBuff run")


def test_the_command_prints_it_alone(made):
    paths = [str(made("q")), str(made("f", algorithm="fedbuff"))]
    done = CliRunner().invoke(app, ["compare", *paths, "--sentence"])
    assert (done.exit_code, done.stdout.rstrip("\n")) == (0, said(*paths))
