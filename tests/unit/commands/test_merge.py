"""`merge` replaces the trace of its own run, and no other file."""

from __future__ import annotations

from pathlib import Path

import pytest

from qafel_mpi.commands.merge import merge
from qafel_mpi.config_text import ConfigError
from qafel_mpi.trace.merge import shards_of, write_run
from tests.unit.trace.made import whole_trace


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Of a run that was begun at some time, beside its trace."""
    out = whole_trace(tmp_path / "a.h5")
    write_run(shards_of(out), {"ranks": 3, "started": "2026-01-01T00:00:00"})
    merge(shards_of(out), None, overwrite=True)
    return shards_of(out)


def test_a_trace_of_the_same_run_is_replaced(shards: Path) -> None:
    merge(shards, None)
    merge(shards, shards.with_suffix(".h5"))


def test_another_file_is_replaced_only_if_the_user_says_so(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = whole_trace(tmp_path / "other" / "b.h5")
    text = tmp_path / "notes.h5"
    text.write_text("notes")
    for there in (other, text):
        before = there.read_bytes()
        with pytest.raises(ConfigError, match="is no trace of this run; --overwrite replaces it"):
            merge(shards, there)
        assert there.read_bytes() == before
        merge(shards, there, overwrite=True)
        merge(shards, there)


def test_a_trace_gets_no_other_suffix(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"call it notes\.h5"):
        merge(shards, tmp_path / "notes.txt", overwrite=True)
