"""The command's own small parts, in one process."""

from __future__ import annotations

import os
import signal

import pytest
from qafel_analysis.commands.options import expanded as expanded_for_analysis

from qafel_mpi.commands import show
from qafel_mpi.commands.app import expanded
from qafel_mpi.commands.list import DATA_FILES
from qafel_mpi.commands.process import Interrupt, from_rank_0
from qafel_mpi.commands.run import exit_code
from qafel_mpi.config import StopConfig
from qafel_mpi.config_text import ConfigError
from qafel_mpi.drivers.build import Progress, RunSummary
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import DATASETS
from qafel_mpi.tasks.errors import DataError


@pytest.mark.parametrize("expand", [expanded, expanded_for_analysis])
def test_a_tilde_is_expanded_where_shells_leave_it(monkeypatch, expand):
    monkeypatch.setenv("HOME", "/home/me")
    words = {
        "--out=~/a.h5": "--out=/home/me/a.h5",
        "~/a.toml": "/home/me/a.toml",
        "~nobody-at-all/x": "~nobody-at-all/x",
    }
    assert {word: expand(word) for word in words} == words
    for word in ("--out", "a~", "./~/a.h5", "--set", "task.model=~x:y"):
        assert expand(word) == word


def test_a_plan_that_fails_is_said_and_exits_with_2(capsys):
    def plan() -> dict:
        raise ConfigError(["one", "two"])

    with pytest.raises(SystemExit) as exit_:
        from_rank_0(None, plan)
    assert exit_.value.code == 2
    assert capsys.readouterr().err == "one\ntwo\n"
    assert from_rank_0(None, lambda: {"a": 1}) == {"a": 1}


def test_the_first_interrupt_is_a_question_and_the_second_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with Interrupt() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (RunSummary(outcome="finished"), 0),
        (RunSummary(outcome="target reached", target_reached=True), 0),
        (RunSummary(outcome="failed: the model's loss is not finite"), 3),
        (RunSummary(outcome="interrupted", interrupted=True), 75),
    ],
)
def test_exit_codes(result, code):
    assert exit_code(result, require_target=False) == code


def test_a_required_target_that_is_not_reached_is_4():
    assert exit_code(RunSummary(outcome="finished"), require_target=True) == 4
    assert exit_code(RunSummary(outcome="target reached", target_reached=True), require_target=True) == 0


@pytest.mark.parametrize("dataset", DATA_FILES)
def test_the_list_looks_for_the_files_that_the_loaders_read(dataset, tmp_path):
    for file in DATA_FILES[dataset]:
        folder = tmp_path / file.replace(".", "-")
        (folder / file).mkdir(parents=True)
        with pytest.raises((DataError, OSError)) as caught:
            DATASETS[dataset](TaskConfig(dataset=dataset), folder, 1, 0)
        assert f"{DATA_FILES[dataset][0]} not found" not in str(caught.value)


def test_the_nearest_end_counts_as_progress():
    now = Progress(5.0, 50, 5, 0.3, 1.0, 0, 0)
    assert show.share_done(now, StopConfig(uploads=100, steps=100)) == 0.5
    assert show.share_done(now, StopConfig(accuracy=0.9)) == 0.0


def test_a_table_is_aligned_and_says_what_is_not_there():
    rows: list[dict[str, object]] = [
        {"rank": 0, "gpu": None, "aware": True},
        {"rank": 10, "gpu": "H200", "aware": False},
    ]
    assert show.table(rows) == "rank  gpu   aware\n   0  -       yes\n  10  H200     no"
    assert show.table([]) == ""


def test_a_result_as_json_has_null_where_there_is_no_number():
    assert '"accuracy": null' in show.summary_json(RunSummary(outcome="finished"))
    assert "accuracy         -" in show.summary(RunSummary(outcome="finished"))


def test_a_run_on_text_shows_bits_per_byte_beside_what_byte_frequencies_give():
    shown = show.summary(RunSummary(loss=2.7, bits_per_byte=3.895, entropy_bits_per_byte=4.568))
    assert "bits per byte    3.895   byte frequencies alone 4.568\n" in shown
    assert "bits per byte" not in show.summary(RunSummary(loss=2.7))
