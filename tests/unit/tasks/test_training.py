"""A training of the user's own is tried before the run, and what is wrong with it is said."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from qafel_mpi.config import load
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.tasks import DataError, build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from tests.support import ROOT

LISTING = (ROOT / "docs/examples/fedprox.py").read_text(encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the listing of docs/your-own.md in it, as mine.py."""
    (tmp_path / "mine.py").write_text(LISTING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def task_of(name: str = "mine:FedProx") -> Any:
    return build(TaskConfig(training=name, clients=4), ClientConfig(), seed=0)


def test_the_listing_of_the_docs_runs_and_learns(here: Path) -> None:
    overrides = ["clock.kind=virtual", "task.training=mine:FedProx", "task.clients=20", "stop.uploads=600"]
    result = virtual.run(load("digits", overrides), None, here / "a.h5")
    assert result.accuracy > 0.8
    assert result.uploads == 600 or result.target_reached


def test_the_handshake_knows_the_data_of_a_training_of_ones_own(here: Path) -> None:
    assert task_of().data_digest.startswith("1437 examples ")


RESULT = "return TrainResult(loss, len(mine), steps)"
FOUND = "return Evaluation(loss, float(right.mean()), len(labels))"
COPIED = "y_0 = start.cpu().numpy().reshape(self.width, -1).copy()"
WRITTEN = "delta.copy_(torch.from_numpy((y - y_0).reshape(-1)))"
ZEROS = "return torch.zeros(self.layout.elements, dtype=self.dtype)"


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("class FedProx(Task)", "class FedProx", "this is no subclass of qafel_mpi.tasks.Task"),
        ("def evaluate(", "def evaluated(", "the class lacks evaluate"),
        ("self.layout = ", "self.shape = ", r"__init__ does not set self\.layout"),
        ("device, len(shares)", "device, 3", "self.clients = 3 for 4 clients"),
        (RESULT, "return loss", "train gave .*; it must give a TrainResult"),
        (FOUND, "return loss", "evaluate gave .*; it must give an Evaluation"),
        (COPIED, f"{COPIED}; start += 1", "train changed start"),
        (WRITTEN, "delta.copy_(torch.rand(len(delta)))", "with the same seed differ"),
        (WRITTEN, "pass", "train, delta is not finite everywhere"),
        (RESULT, "return {}['mu']", r"in a trial with client 0, KeyError: 'mu' \(.*mine.py, line \d+\)"),
        (FOUND, "return 1 / 0", r"in a trial .*ZeroDivisionError: division by zero \(.*mine.py"),
        ('(("weight",), ', "(data.names, ", r"it can't be made: AttributeError: .*\(.*mine.py, line \d+\)"),
        (ZEROS, "return torch.zeros(3)", r"initial is .*; it must be \(640,\)"),
    ],
)
def test_a_training_that_is_none_is_refused_with_the_reason(
    here: Path, before: str, after: str, says: str
) -> None:
    assert before in LISTING
    (here / "mine.py").write_text(LISTING.replace(before, after))
    with pytest.raises(DataError, match=says):
        task_of()


def test_the_contract_finds_a_training_that_never_asks_for_messages(here: Path) -> None:
    from qafel_mpi.testing import TrainingContract

    (here / "mine.py").write_text(
        LISTING.replace("            if poll is not None:\n                poll()", "            0")
    )
    with pytest.raises(AssertionError):
        TrainingContract().test_it_asks_between_steps_whether_there_are_messages(task_of())
    assert torch.isfinite(task_of().initial(0)).all()
