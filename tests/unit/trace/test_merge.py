"""Merging: of whole runs and of folders that lack something; and what a folder of shards knows of it."""

from __future__ import annotations

import os
import socket
import subprocess

import numpy as np
import pytest

from qafel_mpi.trace.merge import merge, merged_into, shards_of
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import ShardWriter, TraceError, shard_path
from qafel_mpi.trace_schema import STEPS
from tests.unit.trace.made import row


def test_a_folder_knows_the_trace_that_holds_all_of_it(tmp_path):
    directory = tmp_path / "a.shards"
    recorder = Recorder(directory, 0, capacity=10)
    recorder.steps.append(row(STEPS))
    recorder.flush()
    assert merged_into(directory) is None
    out = merge(directory, tmp_path / "rescued.h5").path
    assert merged_into(directory) == out
    recorder.steps.append(row(STEPS))
    recorder.close()
    shard, note = shard_path(directory, "steps", 0), directory / "merged.txt"
    os.utime(shard, ns=(0, note.stat().st_mtime_ns + 1))  # as any clock of a file system would see it
    assert merged_into(directory) is None, "it has grown"
    merge(directory, out)
    os.utime(shard, ns=(0, 0))
    assert merged_into(directory) == out
    out.unlink()
    assert merged_into(directory) is None, "its trace is gone"


def test_ranks_that_left_nothing_are_named(whole):
    directory = shards_of(whole)
    shard_path(directory, "messages", 2).unlink()
    assert merge(directory, remove=True).missing_ranks == (2,)
    assert directory.exists(), "what comes late can still be merged"
    with open_trace(whole) as trace:
        assert trace.attributes["missing_ranks"] == "[2]"


def test_a_damaged_description_does_not_cost_the_rows(whole):
    (shards_of(whole) / "run.json").write_text("{nonsense")
    merged = merge(shards_of(whole))
    assert merged.rows["messages"] == 3000
    assert "run.json" in merged.outcome


def test_a_merge_that_fails_leaves_nothing_half_written(whole):
    path, before = shard_path(shards_of(whole), "steps", 1), whole.read_bytes()
    ShardWriter(path).append(np.zeros(3))
    with pytest.raises(TraceError, match="another version of the program"):
        merge(shards_of(whole))
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.zeros(3))
    with pytest.raises(TraceError, match="older version of the program"):
        merge(shards_of(whole))
    assert whole.read_bytes() == before
    assert list(whole.parent.glob("*.part")) == []


def test_what_a_killed_merge_left_goes_with_the_next_one(whole):
    """Its own host's, and only where its process is gone."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    left = whole.with_name(f"{whole.name}.{host}.{ended.pid}.part")
    kept = [
        whole.with_name(f"{whole.name}.{host}.{os.getppid()}.part"),
        whole.with_name(f"{whole.name}.another-{host}.{ended.pid}.part"),
        whole.with_name(f"other.h5.{host}.{ended.pid}.part"),
        whole.with_name(f"{whole.name}.{host}.mine.part"),
    ]
    for path in (left, *kept):
        path.write_bytes(b"half")
    merge(shards_of(whole))
    assert sorted(whole.parent.glob("*.part")) == sorted(kept)
