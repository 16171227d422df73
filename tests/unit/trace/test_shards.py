"""Shards are counted without being read, and read on from where a reader stopped."""

from __future__ import annotations

from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import blocks_from, read_blocks, scan, shard_path
from qafel_mpi.trace_schema import MESSAGES
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
