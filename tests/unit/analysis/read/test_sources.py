"""Where a file comes from, read from traces and from results of benchmarks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from qafel_analysis.example import Example, write
from qafel_analysis.read.sources import Source, merged, source

from qafel_mpi.trace.reader import TraceError

ONE = Source(
    command="qafel-mpi suite digits",
    ranks=2,
    started="2026-11-27T06:00:00+00:00",
    commit="abc",
    changed=False,
    machine={"cpu": "x", "cores": 2, "hosts": 1, "memory_bytes": 1, "mpi": "y"},
    versions={"torch": "2.13.0"},
)


def test_a_traces_source_has_its_command_its_start_its_commit_and_its_machine(tmp_path):
    path = write(tmp_path / "a.h5", Example(messages=200))
    with h5py.File(path, "r+") as file:
        file.attrs["command_line"] = "/opt/venv/bin/qafel-mpi run digits --out a.h5"
        file.attrs["git_commit"], file.attrs["git_dirty"] = "abc", False
        file.attrs["cpu"], file.attrs["mpi_library"] = "Z80", "Open MPI v5.0.11"
        rows = file["ranks"][:]
        rows["host"], rows["cpu_set"] = b"node", [b"0-1", b"1", b"2", b"3", b"3"]
        file["ranks"][:] = rows
        started, ranks = file.attrs["started"], int(file.attrs["ranks"])
    found = source(path)
    assert (found.command, found.ranks) == ("qafel-mpi run digits --out a.h5", ranks)
    assert (found.started, found.commit, found.changed) == (started, "abc", False)
    assert {k: found.machine[k] for k in ("cpu", "cores", "hosts", "mpi")} == {
        "cpu": "Z80",
        "cores": 4,
        "hosts": 1,
        "mpi": "Open MPI v5.0.11",
    }


def test_a_benchmarks_source_is_its_provenance(tmp_path):
    about = {
        "command_line": "/x/bin/qafel-mpi bench p2p --json p2p.json",
        "started": "2026-11-27T06:00:00+00:00",
        "git_commit": "abc",
        "git_dirty": True,
        "cpu": "Z80",
        "memory_bytes": 10,
        "mpi_library": "MPICH",
        "versions": {"numpy": "2"},
        "ranks": [{"host": "a", "cores": "0"}, {"host": "b", "cores": "0"}],
    }
    path = tmp_path / "p2p.json"
    path.write_text(json.dumps({"bench": "p2p", "rows": [], "provenance": about}))
    found = source(path)
    assert found == Source(
        "qafel-mpi bench p2p --json p2p.json", 2, "2026-11-27T06:00:00+00:00", "abc", True,
        {"cpu": "Z80", "cores": 2, "hosts": 2, "memory_bytes": 10, "mpi": "MPICH"}, {"numpy": "2"},
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "[]", '{"rows": []}', '{"provenance": 3}'])
def test_a_file_without_provenance_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(TraceError, match=r"x\.json: not a result of qafel-mpi bench"):
        source(path)


def test_the_runs_of_one_suite_are_one_source_started_with_its_most_ranks():
    later = replace(ONE, ranks=32, started="2026-11-27T07:00:00+00:00")
    (found,) = merged([later, ONE])
    assert (found["command"], found["files"]) == ("mpirun -n 32 qafel-mpi suite digits", 2)
    assert (found["started"], found["last_started"]) == (ONE.started, later.started)


@pytest.mark.parametrize("change", [{"commit": "def"}, {"changed": True}, {"versions": {"torch": "2.6"}}])
def test_runs_of_different_code_are_different_sources(change):
    assert len(merged([ONE, replace(ONE, **change)])) == 2
