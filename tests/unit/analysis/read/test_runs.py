"""The runs of a command's files: no run counts twice, whatever files it is in."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.commands.read import each
from qafel_analysis.figures.collect import collect
from qafel_analysis.read.runs import each_run
from typer.testing import CliRunner

from qafel_mpi.trace.merge import shards_of
from tests.unit.analysis.tables.test_compare import make
from tests.unit.analysis.theory.test_loggp import bench_file
from tests.unit.trace.made import edited


@pytest.fixture
def one(tmp_path) -> list[Path]:
    """A run in three files: its trace, the shards that it was merged from, and a copy."""
    trace = make(
        tmp_path, "a", about={"started": "2026-11-28T18:23:50+00:00", "origin_s": 23976.5, "host": "vm"}
    )
    copy = tmp_path / "copy.h5"
    shutil.copy(trace, copy)
    return [trace, shards_of(trace), copy]


def printed(*words: object):
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout), done.stderr


def test_a_run_in_several_files_counts_once_and_that_is_said(one, tmp_path):
    trace, shards, copy = one
    for given in ([trace, shards, copy], [shards, copy, trace]):
        (found,), said = printed("compare", *given)
        assert (found["runs"], found["seeds"]) == (1, [0])
        assert said.count("the same run as") == 2
        (row,), _ = printed("table", *given)
        assert row["x_digest"], "the trace's: it is whole"
    assert [d.run["run"] for d in collect([shards, trace]).drawn] == [str(trace)]
    out = tmp_path / "record.json"
    assert CliRunner().invoke(app, ["table", *map(str, one), "--record", str(out)]).exit_code == 0
    assert [source["files"] for source in json.loads(out.read_text())["sources"]] == [1]


def test_the_file_of_a_run_that_goes_furthest_counts(one):
    trace, _, copy = one
    with edited(trace) as file:
        rows = file["updates"][:50]
        del file["updates"]
        file["updates"] = rows
    found = each_run([trace, copy], lambda t: t.path)
    assert found.runs == [copy]
    assert found.notes == [f"{trace}: the same run as {copy}; it counts once"]


def test_runs_of_one_experiment_and_seed_are_two(tmp_path):
    begun = {"started": "2026-11-28T18:23:50+00:00", "host": "vm"}
    first, second = (
        make(tmp_path, name, about=begun | {"origin_s": at}) for name, at in (("a", 1.0), ("b", 1.5))
    )
    assert len(each_run([first, second], lambda t: t.path).runs) == 2


def test_a_trace_that_does_not_say_when_it_began_counts_once_where_it_is_given_twice(tmp_path):
    first, second = make(tmp_path, "a"), make(tmp_path, "b")
    found = each_run([first, second, tmp_path / "x" / ".." / "a.h5"], lambda t: t.path)
    assert found.runs == [first, second]


def test_a_bench_file_given_twice_is_one_launch(tmp_path):
    path = bench_file(tmp_path)
    assert each([path, path], bool) == [True]
