"""What `run` promises: its help, and its exit codes."""

from __future__ import annotations

import re

import pytest
from typer.testing import CliRunner

from qafel_mpi.commands.app import app
from qafel_mpi.commands.run import exit_code
from qafel_mpi.drivers.build import RunSummary


def test_the_help_promises_no_wall_run_that_is_a_function_of_its_seed():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "400"}).stdout
    (line,) = (line for line in shown.splitlines() if "│ --seed" in line)
    assert re.search(r"alone decides a run on the virtual clock; on the wall clock the ranks' timing", line)


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
