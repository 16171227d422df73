"""Names of traces: which are taken, and what to do about it."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest

from qafel_mpi.commands.names import make_room
from qafel_mpi.config_text import ConfigError
from qafel_mpi.trace.claim import release_all
from qafel_mpi.trace.merge import merge, shards_of
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import STEPS


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The name of a run that was cut short: its shards are there, and no trace."""
    path = tmp_path / "a.h5"
    recorder = Recorder(shards_of(path), 0)
    recorder.steps.append(tuple(0 for _ in STEPS.names or ()))
    recorder.close()
    return path


def refusal(out: Path) -> str:
    with pytest.raises(ConfigError) as error:
        make_room(out, overwrite=False)
    return str(error.value).replace(str(out.parent) + "/", "")


def test_a_run_that_was_cut_short_is_to_be_merged_first(out):
    assert refusal(out) == (
        "--out a.h5: a.shards holds a run that was cut short; "
        "`qafel-mpi merge a.shards` recovers it, --overwrite deletes it"
    )


def test_after_a_merge_nothing_asks_for_it_again(out):
    merge(shards_of(out))
    assert refusal(out) == "--out a.h5: it exists already; --overwrite replaces it"


def test_shards_that_were_merged_under_another_name_are_not_overwritten_unasked(out):
    merge(shards_of(out), out.with_name("b.h5"))
    assert refusal(out) == (
        "--out a.h5: a.shards holds a run that was merged into b.h5; --overwrite deletes these shards"
    )
    assert shards_of(out).exists()
    make_room(out, overwrite=True)
    release_all()
    assert not shards_of(out).exists()


def test_a_trace_that_is_open_elsewhere_is_not_replaced(out):
    merge(shards_of(out))
    with h5py.File(out), pytest.raises(ConfigError, match="another program has it open"):
        make_room(out, overwrite=True)
    make_room(out, overwrite=True)
    release_all()
