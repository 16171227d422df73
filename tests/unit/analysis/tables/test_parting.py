"""Where two traces of one experiment part."""

import json

import h5py
import pytest
from qafel_analysis.commands import app
from qafel_analysis.example import Example, write
from qafel_analysis.tables.parting import parting, steps_apart
from typer.testing import CliRunner

from qafel_mpi.trace.reader import open_trace

runner = CliRunner()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write(tmp_path_factory.mktemp("runs") / "a.h5", Example(messages=2_000))


def changed(run, folder, table, row, column, value):
    copy = folder / "b.h5"
    copy.write_bytes(run.read_bytes())
    with h5py.File(copy, "r+") as file:
        found = file[table][row]
        found[column] = value
        file[table][row] = found
    return copy


def test_a_trace_does_not_part_from_itself(run):
    with open_trace(run) as a, open_trace(run) as b:
        found = parting(a, b)
        assert (found.order, found.payload, found.step, found.settings) == (None, None, None, ())
        assert found.compared == found.uploads[0] == found.uploads[1] > 100
        assert not any(values.any() for name, values in steps_apart(a, b).items() if name == "gap")


@pytest.mark.parametrize(
    ("table", "row", "column", "value", "name", "at"),
    [
        ("updates", 31, "client", 99, "order", 31),
        ("updates", 31, "digest", 5, "payload", 31),
        ("steps", 7, "gap", 0.123, "step", 7),
    ],
)
def test_the_first_place_is_found(run, tmp_path, table, row, column, value, name, at):
    other = changed(run, tmp_path, table, row, column, value)
    with open_trace(run) as a, open_trace(other) as b:
        found = parting(a, b)
    parted = {key: getattr(found, key) for key in ("order", "payload", "step")}
    assert parted == dict.fromkeys(("order", "payload", "step")) | {name: at}


def test_the_command_prints_and_draws_it(run, tmp_path):
    other = changed(run, tmp_path, "steps", 7, "gap", 0.123)
    done = runner.invoke(
        app.app, ["parting", str(run), str(other), "--json", "--out", str(tmp_path / "apart")]
    )
    assert done.exit_code == 0
    text, end = done.stdout.split("}", 1)
    assert json.loads(text + "}")["step"] == 7
    assert end.split() == [str(tmp_path / "apart.pdf"), str(tmp_path / "apart.png")]
    assert (tmp_path / "apart.png").stat().st_size > 5_000
    shown = runner.invoke(app.app, ["parting", str(run), str(other)]).stdout
    assert "first server step that differs" in shown
    assert runner.invoke(app.app, ["parting", str(run), str(tmp_path / "none.h5")]).exit_code == 2
