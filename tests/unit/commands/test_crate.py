"""What goes into a crate; the whole command is in tests/system/test_crate.py."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import pytest
from qafel_analysis.example import Example, write

from qafel_mpi.commands import crate
from qafel_mpi.config_text import ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write(tmp_path / "runs/a.h5", Example(messages=300))


def test_runs_of_one_name_get_different_ones(run: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "more/a.h5", Example(messages=300))
    assert [found.name for found in crate._read([run, other, other])] == ["a", "more-a", "a-2"]
    assert list(islice(crate._names(Path("x/b.h5")), 4)) == ["b", "x-b", "b-2", "b-3"]


def test_what_is_no_whole_trace_is_one_message(run: Path, tmp_path: Path) -> None:
    (tmp_path / "b.shards").mkdir()
    (tmp_path / "text.h5").write_text("none")
    for path, why in (
        (tmp_path / "b.shards", "a folder of shards; make a trace of it first: qafel-mpi merge"),
        (tmp_path / "none.h5", "no such file"),
        (tmp_path / "text.h5", "not an HDF5 file"),
    ):
        with pytest.raises(ConfigError, match=why):
            list(crate._read([run, path]))


def test_times_are_the_runs_own_and_absent_where_it_does_not_say() -> None:
    about = {"started": "2026-11-27T12:00:00+00:00", "seconds": 90.0}
    assert crate.Found(Path("a"), "a", about).times() == {
        "startTime": "2026-11-27T12:00:00+00:00",
        "endTime": "2026-11-27T12:01:30+00:00",
    }
    assert crate.Found(Path("a"), "a", {"started": "yesterday", "seconds": 1.0}).times() == {}
    assert crate.Found(Path("a"), "a", {}).times() == {}


def test_the_environment_is_json_all_the_way_down() -> None:
    found = crate.Found(
        Path("a"), "a", {"versions": '{"numpy": "2"}', "host": "n1", "cpu": "[odd", "seed": 3}
    )
    assert found.environment() == {"versions": {"numpy": "2"}, "host": "n1", "cpu": "[odd"}


def test_without_rocrate_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rocrate", None)
    with pytest.raises(ConfigError, match=r"pip install 'qafel-mpi\[crate\]'"):
        crate._library()
