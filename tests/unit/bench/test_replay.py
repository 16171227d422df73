"""The benchmark of replays says what went wrong in one that it timed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from qafel_mpi.bench.replay import replay_seconds


def test_a_replay_that_differs_is_counted_and_one_that_slipped_is_said(capsys):
    wrong: list[str] = []
    found: Any = SimpleNamespace(
        seconds=4.0, uploads=8, outcome="the same", first_text="", slip_text="", x_same=True, x_hat_same=True
    )
    assert replay_seconds(lambda path: found, Path("a.h5"), wrong) == 0.5
    assert (wrong, capsys.readouterr().err) == ([], "")
    found.slip_text = "upload 3 differs: trained again here"
    replay_seconds(lambda path: found, Path("a.h5"), wrong)
    assert (wrong, capsys.readouterr().err) == (
        [],
        "bench: replay a.h5: upload 3 differs: trained again here\n",
    )
    found.outcome, found.first_text, found.slip_text = "differs", "upload 5 differs", ""
    replay_seconds(lambda path: found, Path("a.h5"), wrong)
    assert (wrong, capsys.readouterr().err) == (
        ["differs"],
        "bench: replay a.h5: differs. upload 5 differs\n",
    )
    found.first_text, found.x_same = "", False
    replay_seconds(lambda path: found, Path("a.h5"), wrong)
    assert capsys.readouterr().err.endswith("differs. every payload is the run's; x is: False, x̂ is: True\n")
