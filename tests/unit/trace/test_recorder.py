"""What a rank records survives: kill -9, a full disk, a row that is written again."""

from __future__ import annotations

import os
import signal
import struct
from time import perf_counter

import numpy as np
import pytest

from qafel_mpi.trace.merge import merge, write_run
from qafel_mpi.trace.reader import follow, open_trace
from qafel_mpi.trace.recorder import Recorder, row_format
from qafel_mpi.trace.shards import read_blocks, scan, shard_path
from qafel_mpi.trace_schema import CLOCK, FAULT_NUMBERS, MESSAGES, NOT_ENDED, RANKS, TABLES
from tests.unit.trace.made import child, row


def test_a_killed_rank_loses_only_what_was_not_flushed(tmp_path):
    directory = tmp_path / "a.shards"
    process = child(
        """
        recorder = Recorder(Path(sys.argv[1]), 1, capacity=100)
        for k in range(10**9):
            recorder.messages.append(tuple(k if n == "sequence" else 0 for n in MESSAGES.names))
            if k == 1000:
                print("a thousand rows", flush=True)
        """,
        directory,
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    merged = merge(directory)
    assert merged.rows["messages"] >= 1000
    assert merged.outcome.startswith("failed")
    with open_trace(merged.path) as trace:
        found = trace.table("messages")["sequence"]
    assert (found == np.arange(found.size)).all()


def test_a_fault_is_a_row_on_the_clock_of_rank_0_and_the_detail_may_be_any_text(tmp_path):
    directory = tmp_path / "a.shards"
    recorder = Recorder(directory, 2)
    recorder.clock.append(row(CLOCK, rank=2, local_s=0.0, offset_s=1e9))
    recorder.fault("rank died", rank=3, host="n1", version=7, in_flight=2, detail="ü" * 150 + "\udcff")
    recorder.close()
    write_run(directory, {"ranks": 1, "origin_s": 1e9})
    live = follow(directory).table("faults")
    with open_trace(merge(directory).path) as trace:
        found = trace.table("faults")[0]
        assert found == live[0]
    assert (found["kind"], found["noticed_by"], found["rank"]) == (FAULT_NUMBERS["rank died"], 2, 3)
    assert (found["host"], found["client"], found["version"], found["in_flight"]) == (b"n1", -1, 7, 2)
    assert 0 <= perf_counter() - found["time_s"] < 60, "rank 2's own clock, corrected by what /clock says"
    assert found["detail"].decode(errors="replace").startswith("üü")


def test_a_full_disk_names_the_file_keeps_the_rows_and_goes_on_when_there_is_room(tmp_path):
    process = child(
        """
        import resource
        from qafel_mpi.trace.shards import TraceError
        recorder = Recorder(Path(sys.argv[1]), 0, capacity=100)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        k = 0
        try:
            while True:
                recorder.messages.append(tuple(k if n == "sequence" else 0 for n in MESSAGES.names))
                k += 1
        except TraceError as error:
            print(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        recorder.close()
        print(k)
        """,
        tmp_path / "a.shards",
    )
    message, recorded = process.communicate()[0].splitlines()
    path = shard_path(tmp_path / "a.shards", "messages", 0)
    assert str(path) in message
    assert scan(path).torn_bytes == 0
    found = np.concatenate(list(read_blocks(path)))["sequence"]
    assert found.tolist() == list(range(int(recorded)))


def test_a_row_that_is_written_again_takes_the_place_of_the_first(tmp_path):
    ranks = Recorder(tmp_path / "a.shards", 3).ranks
    path = shard_path(tmp_path / "a.shards", "ranks", 3)
    for version in (NOT_ENDED, 7):
        ranks.replace(row(RANKS, rank=3, version=version))
        (found,) = (block for block in read_blocks(path))  # on disk at once
        assert found["version"].tolist() == [version]
    ranks.append(row(RANKS, rank=3, version=8))
    ranks.close()
    assert [one for block in read_blocks(path) for one in block["version"]] == [7, 8]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_value_that_does_not_fit_its_column_is_refused(tmp_path):
    recorder = Recorder(tmp_path / "a.shards", 0)
    with pytest.raises(struct.error, match="ubyte"):
        recorder.messages.append(row(MESSAGES, kind=256))


@pytest.mark.parametrize("table", TABLES)
def test_a_packed_row_is_what_numpy_would_assign(table):
    dtype = TABLES[table]
    values = tuple(
        b"text" if dtype[name].kind == "S" else k + (0.25 if dtype[name].kind == "f" else 0)
        for k, name in enumerate(dtype.names or ())
    )
    assigned = np.zeros(1, dtype=dtype)
    assigned[0] = values
    assert row_format(dtype).pack(*values) == assigned.tobytes()
