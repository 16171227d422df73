"""What of a benchmark that ends early is in its files."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from qafel_mpi.bench.measuring import keep, result
from qafel_mpi.bench.measuring.keep import Keeper
from qafel_mpi.bench.measuring.result import Result, Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.commands.bench import files as result_files
from qafel_mpi.commands.bench import measure as command
from qafel_mpi.commands.bench.measure import Output
from qafel_mpi.commands.process import ExitCode


def row(number: int = 0) -> Row:
    return Row("p2p", {"bytes": number}, Samples(1e-5 + 1e-8 * np.arange(20), np.zeros(1), 1000))


@pytest.fixture
def start(monkeypatch, tmp_path: Path):
    """command.run in this process, which is not bound to anything; its exit code."""
    monkeypatch.setattr(command, "about", lambda comm, benches: {"host": "n1"})

    def started(measure, output: Output) -> int:
        with pytest.raises(SystemExit) as end:
            command.run("p2p", measure, output, seconds=1.0, width=0.1)
        return int(end.value.code or 0)

    return started


def fails():
    raise OSError("the seventh part failed")


def is_killed():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (fails, "OSError: the seventh part failed"),
        (is_killed, "BenchInterruptedError: interrupted by SIGTERM"),
    ],
)
def test_what_was_measured_before_the_end_is_in_both_files_and_marked(start, tmp_path, happens, said, capsys):
    def measure(comm, limits):
        yield row(1)
        yield row(2)
        happens()
        yield row(3)

    files = [tmp_path / "a.json", tmp_path / "a.h5"]
    assert start(measure, Output(*files, None)) == ExitCode.FAILED
    for file in files:
        found = result.read(file)
        assert [r.parameters["bytes"] for r in found.rows] == [1, 2]
        assert found.incomplete == said
        assert len(found.provenance["load"]["end"]) == 3
        with pytest.raises(SystemExit) as end:
            result_files.check(file)
        assert end.value.code == ExitCode.TARGET_NOT_REACHED
        assert f"rows are missing: {said}" in capsys.readouterr().out
    assert sorted(tmp_path.iterdir()) == sorted(files)


def test_rows_are_on_the_disk_while_the_next_are_measured(start, tmp_path):
    """A rank that dies takes rank 0 with it, wherever that is."""
    seen: list[Result] = []

    def measure(comm, limits):
        yield row(1)
        seen.append(result.read(tmp_path / "a.json"))
        yield row(2)

    assert start(measure, Output(tmp_path / "a.json", None, None)) == ExitCode.DONE
    assert len(seen[0].rows) == 1
    assert seen[0].incomplete
    assert not result.read(tmp_path / "a.json").incomplete
    assert "incomplete" not in json.loads((tmp_path / "a.json").read_text())


def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """Half a second a writing, a row every second: every tenth is written, and all at the end."""
    now_s = [0.0]
    monkeypatch.setattr(keep, "perf_counter", lambda: now_s[0])
    written: list[int] = []

    def write(found: Result, path: Path) -> None:
        written.append(len(found.rows))
        now_s[0] += 0.5

    monkeypatch.setattr(Result, "write_json", write)
    keeper = Keeper("p2p", {}, tmp_path / "a.json", None)
    with keeper.until_the_end():
        for number in range(21):
            keeper.add(row(number))
            now_s[0] += 1.0
    assert written == [1, 12, 21]


@pytest.mark.parametrize("where", ["folder", "file/a.json", "missing/device"])
def test_a_path_that_cannot_be_written_is_refused_before_anything_is_measured(start, tmp_path, where, capsys):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "missing").symlink_to("/proc/none")

    def measure(comm, limits):
        raise AssertionError("measured")

    assert start(measure, Output(None, tmp_path / where, None)) == ExitCode.USAGE
    assert "can't be written" in capsys.readouterr().err


def test_a_file_that_is_there_stays_until_there_is_a_whole_one(tmp_path):
    path = tmp_path / "a.h5"
    Result("p2p", [row()], {}).write_hdf5(path)
    with pytest.raises(TypeError):
        Result("p2p", [Row("p2p", {"bytes": {1, 2}}, row().ours)], {}).write_hdf5(path)
    assert list(tmp_path.iterdir()) == [path]
    assert len(result.read(path).rows) == 1
    with h5py.File(path) as file:
        assert "incomplete" not in file.attrs


def test_without_any_row_an_older_file_stays(tmp_path):
    path = tmp_path / "a.json"
    Result("p2p", [row()], {}).write_json(path)
    with pytest.raises(OSError, match="seventh"), Keeper("p2p", {}, path, None).until_the_end():
        fails()
    assert len(result.read(path).rows) == 1


def test_a_folder_is_its_launches_each_once(tmp_path, capsys):
    made = Result("p2p", [row()], {}, incomplete="cut short")
    made.write_json(tmp_path / "a.json")
    made.write_hdf5(tmp_path / "a.h5")
    Result("p2p", [row()], {}).write_json(tmp_path / "b.json")
    assert len(result_files._launches(tmp_path)) == 2
    assert len(result_files._launches(tmp_path / "b.json")) == 1
    assert capsys.readouterr().err.endswith("a.json: rows are missing: cut short\n")
