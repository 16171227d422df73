"""Shards are counted without being read, read on from where a reader stopped, and survive wrong bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest

from qafel_mpi.trace.merge import FINAL, merge, shards_of, write_final, write_run
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import blocks_from, read_blocks, scan, shard_path
from qafel_mpi.trace_schema import MESSAGES, RANKS
from tests.unit.trace.made import row


def test_rows_are_counted_without_reading_them(tmp_path):
    recorder = Recorder(tmp_path / "a.shards", 0, capacity=7)
    for k in range(20):
        recorder.messages.append(row(MESSAGES, sequence=k))
    recorder.close()
    path = shard_path(tmp_path / "a.shards", "messages", 0)
    assert scan(path).rows == 20
    whole = path.read_bytes()
    for cut in range(1, 900, 13):
        path.write_bytes(whole[:-cut])
        assert scan(path).rows == sum(len(b) for b in read_blocks(path))
    path.write_bytes(whole + bytes(3000))  # a disk that kept the length but not the data
    assert (scan(path).rows, scan(path).torn_bytes) == (20, 3000)
    path.write_bytes(whole + whole[:500].replace(b"descr", b"\x00\xffscr"))
    assert scan(path).rows == sum(len(b) for b in read_blocks(path)) == 20


def test_a_follower_reads_on_where_it_stopped(tmp_path):
    recorder = Recorder(tmp_path / "a.shards", 0)
    path = shard_path(tmp_path / "a.shards", "messages", 0)
    end, seen = 0, []
    for k in range(3):
        recorder.messages.append(row(MESSAGES, sequence=k))
        recorder.flush()
        for reached, block in blocks_from(path, end):
            end = reached
            seen += block["sequence"].tolist()
    assert seen == [0, 1, 2]


@pytest.fixture
def shard(tmp_path):
    """20 blocks of 50 messages, sequence 0 to 999."""
    recorder = Recorder(tmp_path / "a.shards", 0, capacity=50)
    for k in range(1000):
        recorder.messages.append(row(MESSAGES, sequence=k))
    recorder.close()
    return shard_path(tmp_path / "a.shards", "messages", 0)


def test_a_wrong_byte_costs_one_block_and_all_others_are_read(shard):
    """200 bytes at random (seed 0), each changed alone."""
    content = bytearray(shard.read_bytes())
    places = random.Random(0)
    for place in places.sample(range(len(content)), 200):
        good = content[place]
        content[place] ^= 1 << places.randrange(8)
        shard.write_bytes(content)
        found = scan(shard, verify=True)
        sequences = np.concatenate([block["sequence"] for block in read_blocks(shard)])
        assert found.rows == len(sequences) == 950
        assert (np.diff(sequences) > 0).all()
        lost = place // (len(content) // 20)
        assert set(range(1000)) - set(sequences.tolist()) == set(range(50 * lost, 50 * lost + 50))
        assert len(found.bad) == 1 or (lost == 19 and found.torn_bytes > 0)
        content[place] = good


def test_a_merge_names_a_damaged_block_and_merges_all_others(shard, tmp_path):
    content = bytearray(shard.read_bytes())
    content[len(content) // 2 + 300] ^= 1
    shard.write_bytes(content)
    write_run(tmp_path / "a.shards", {"ranks": 1, "outcome": "finished"})
    merged = merge(tmp_path / "a.shards", remove=True)
    assert merged.rows["messages"] == 950
    assert merged.damaged == (merged.damaged[0],)
    assert "messages.000000.npys: bytes" in merged.damaged[0]
    assert "50 rows with a wrong checksum" in merged.damaged[0]
    assert shards_of(merged.path).exists(), "shards with a damaged block are kept"
    with open_trace(merged.path) as trace:
        assert "wrong checksum" in trace.attributes["damaged"]
        assert len(trace.table("messages")) == 950


def test_a_damaged_final_vector_loses_nothing_else(shard, tmp_path):
    directory = tmp_path / "a.shards"
    write_run(directory, {"ranks": 1, "outcome": "finished"})
    write_final(directory, x=np.arange(50.0), x_hat=np.arange(50.0))
    path = directory / "final.x_hat.npys"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    merged = merge(directory)
    assert merged.rows["messages"] == 1000
    assert merged.damaged == ("final.x_hat.npys: the vector has a wrong checksum",)
    with open_trace(merged.path) as trace:
        x, x_hat = (trace.final(name) for name in FINAL)
    assert x is not None
    assert x_hat is None


def test_a_run_whose_description_is_damaged_is_merged_without_it(shard, tmp_path):
    directory = tmp_path / "a.shards"
    write_run(directory, {"ranks": 1, "outcome": "finished", "seed": 5})
    text = (directory / "run.json").read_text()
    (directory / "run.json").write_text(text.replace('"seed": 5', '"seed": 4'))
    merged = merge(directory)
    assert (
        merged.outcome == "failed: run.json could not be read (its checksum is wrong); merged from the shards"
    )
    assert merged.rows["messages"] == 1000


def test_rows_that_a_rank_recorded_and_that_are_in_no_shard_are_counted(shard, tmp_path):
    directory = tmp_path / "a.shards"
    write_run(directory, {"ranks": 1, "outcome": "finished"})
    recorder = Recorder(directory, 0)
    recorder.ranks.replace(row(RANKS, rows_written=1000))
    assert merge(directory).missing_rows == {}
    shard.unlink()
    merged = merge(directory, remove=True)
    assert merged.missing_rows == {0: 1000}
    assert merged.warnings() == ["recorded rows are in no shard: 1,000 of rank 0"]
    assert directory.exists()
