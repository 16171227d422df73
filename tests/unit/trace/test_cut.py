"""Shards cut back to a moment, and appended to from there."""

import numpy as np

from qafel_mpi.trace.cut import cut_rows, cut_to_positions, forget_ends, positions_of, tell_rows_left
from qafel_mpi.trace.merge import merge, write_run
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import read_blocks, scan, shard_path
from qafel_mpi.trace_schema import MESSAGES, RANKS, STEPS, TABLES
from tests.unit.trace.made import row


def sequences(directory, rank=0):
    path = shard_path(directory, "messages", rank)
    return [int(s) for block in read_blocks(path) for s in block["sequence"]] if path.exists() else []


def recorded(directory, rank, begin, end):
    recorder = Recorder(directory, rank, capacity=7)
    for k in range(begin, end):
        recorder.messages.append(row(MESSAGES, sequence=k, t_post=float(k)))
    return recorder


def test_rows_behind_a_position_go_and_a_resumed_rank_records_them_again(tmp_path):
    recorder = recorded(tmp_path, 0, 0, 20)
    recorder.steps.append(row(STEPS, version=3))
    positions = recorder.positions()
    for k in range(20, 40):
        recorder.messages.append(row(MESSAGES, sequence=k))
    recorder.encodings.append((0, 0, 1.0, 1.0))  # a table that had no row at the position
    recorder.close()
    recorded(tmp_path, 5, 0, 3).close()  # a rank of which the checkpoint knew nothing
    for _ in range(2):  # a cut that is made again changes nothing
        assert cut_to_positions(tmp_path, {0: positions}) == 0
        assert sequences(tmp_path) == list(range(20))
        assert not shard_path(tmp_path, "encodings", 0).exists()
        assert sequences(tmp_path, 5) == []
    again = Recorder(tmp_path, 0)
    again.go_on(shift_s=1000.0)
    assert again.rows == 21
    again.messages.append(row(MESSAGES, sequence=20, t_post=5.0))
    again.close()
    assert sequences(tmp_path) == list(range(21))
    *_, last = read_blocks(shard_path(tmp_path, "messages", 0))
    assert last["t_post"].tolist() == [1005.0]


def test_what_never_came_to_the_disk_is_counted(tmp_path):
    recorder = recorded(tmp_path, 0, 0, 5)
    positions = recorder.positions()
    positions[list(TABLES).index("messages")] += 100
    recorder.close()
    assert cut_to_positions(tmp_path, {0: positions}) == 100


def test_rows_are_kept_by_a_rule_and_a_torn_end_goes(tmp_path):
    recorded(tmp_path, 2, 0, 30).close()
    path = shard_path(tmp_path, "messages", 2)
    with path.open("ab") as file:
        file.write(b"QSB1 half a block")
    assert cut_rows(path, lambda rows: rows["sequence"] < 100) == 0
    assert scan(path).torn_bytes == 0
    assert cut_rows(path, lambda rows: rows["sequence"] % 3 == 0) == 20
    assert sequences(tmp_path, 2) == list(range(0, 30, 3))
    assert cut_rows(path, lambda rows: np.zeros(len(rows), bool)) == 10
    assert not path.exists()
    assert cut_rows(path, lambda rows: np.zeros(len(rows), bool)) == 0
    assert [p.name for p in tmp_path.iterdir()] == []


def test_the_positions_of_ranks_that_take_no_part_any_more(tmp_path):
    for rank in (0, 3, 4):
        recorded(tmp_path, rank, 0, 2).close()
    left = positions_of(tmp_path, 3)
    assert sorted(left) == [3, 4]
    assert left[3][list(TABLES).index("messages")] == shard_path(tmp_path, "messages", 3).stat().st_size


def test_rows_that_a_cut_removes_are_missed_by_no_merge_and_rows_that_are_lost_later_are(tmp_path):
    shards = tmp_path / "a.shards"
    write_run(shards, {"ranks": 1, "outcome": "finished"})
    recorder = recorded(shards, 3, 0, 20)
    positions = recorder.positions()
    for k in range(20, 40):
        recorder.messages.append(row(MESSAGES, sequence=k))
    recorder.ranks.replace(row(RANKS, rank=3, rows_written=recorder.rows))
    recorder.close()
    forget_ends(shards)
    cut_to_positions(shards, {3: positions})
    assert merge(shards, tmp_path / "killed.h5").missing_rows == {}
    tell_rows_left(shards)
    assert merge(shards, tmp_path / "cut.h5").missing_rows == {}
    shard_path(shards, "messages", 3).unlink()
    assert merge(shards, tmp_path / "lost.h5").missing_rows == {3: 20}
