"""What survives: kill -9, a full disk, files that were cut short, folders that are not merged."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from qafel_mpi import wire
from qafel_mpi.codecs import CODECS
from qafel_mpi.trace.merge import merge, merged_into, shards_of, write_final, write_run
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.recorder import Recorder, row_format
from qafel_mpi.trace.shards import TraceError, blocks_from, read_blocks, scan, shard_path
from qafel_mpi.trace_schema import (
    CODEC_NAMES,
    HEADER_BYTES,
    KIND_NAMES,
    MESSAGES,
    NOT_ENDED,
    RANKS,
    SCHEMA_VERSION,
    STEPS,
    TABLES,
)


def row(dtype: np.dtype, **values: object) -> tuple:
    return tuple(values.get(name, b"" if dtype[name].kind == "S" else 0) for name in dtype.names or ())


def child(source: str, *arguments: object) -> subprocess.Popen:
    """A process that runs this source, with row() above at hand."""
    prelude = "import sys; from pathlib import Path; from qafel_mpi.trace.recorder import Recorder\n"
    prelude += "from qafel_mpi.trace_schema import MESSAGES\n"
    code = prelude + textwrap.dedent(source)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A merged trace of 3 ranks: 3,000 messages, 100 steps."""
    directory = shards_of(tmp_path / "a.h5")
    for rank in range(3):
        recorder = Recorder(directory, rank, capacity=300)
        for k in range(1000):
            recorder.messages.append(row(MESSAGES, sequence=k, src=rank))
        for k in range(100 if rank == 0 else 0):
            recorder.steps.append(row(STEPS, version=k))
        recorder.close()
    write_run(directory, {"ranks": 3, "outcome": "finished", "experiment": "[stop]\naccuracy = 0.9\n"})
    write_final(directory, x=np.arange(5.0))
    return merge(directory).path


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


def test_a_folder_of_shards_reads_like_the_merged_file(whole):
    with open_trace(whole) as file, open_trace(shards_of(whole)) as shards:
        assert "qafel-mpi merge" in shards.notes[0]
        for table in TABLES:
            assert shards.rows(table) == file.rows(table)
            assert shards.table(table).tobytes() == file.table(table).tobytes()
        assert shards.experiment == file.experiment
        assert shards.table("messages", ["src"]).dtype.names == ("src",)
        assert shards.final("x") is None
        assert shards.digest("x") == ""


def test_a_file_that_was_cut_short_gives_the_rows_before_the_cut(whole):
    content = whole.read_bytes()
    with open_trace(whole) as trace:
        messages = trace.table("messages")
    for share in (0.3, 0.6, 0.95):
        whole.write_bytes(content[: int(share * len(content))])
        with pytest.raises(TraceError, match="cut short"):
            open_trace(whole)
        with open_trace(whole, salvage=True) as trace:
            readable = trace.rows("messages")
            assert f"{readable:,} of 3,000 messages" in trace.notes[0]
            assert readable > 2900 * (share - 0.3)
            assert trace.table("messages").tobytes() == messages[:readable].tobytes()
            assert trace.rows("steps") == 100
            assert trace.attributes["outcome"] == "finished"
            assert trace.final("x") is None
    whole.write_bytes(content[:3000])
    with pytest.raises(TraceError, match="cut short"):
        open_trace(whole, salvage=True)


def test_a_newer_schema_is_read_as_far_as_it_is_known(whole):
    with h5py.File(whole, "r+") as file:
        file.attrs["schema_version"] = SCHEMA_VERSION + 1
        steps = file["steps"][:]
        kept = [name for name in STEPS.names or () if name not in ("gap", "uploads")]
        del file["steps"]
        newer = np.zeros(100, dtype=[("novelty", "<f8"), *((n, STEPS[n]) for n in kept)])
        for name in kept:
            newer[name] = steps[name]
        file["steps"] = newer
    with open_trace(whole, salvage=True) as trace:
        assert "update qafel_mpi" in trace.notes[0]
        table = trace.table("steps")
        assert table.dtype == STEPS
        assert (table["version"] == steps["version"]).all()
        assert np.isnan(table["gap"]).all()
        assert (table["uploads"] == -1).all()


def test_a_table_that_is_no_table_is_named(whole):
    with h5py.File(whole, "r+") as file:
        del file["steps"]
        file["steps"] = np.arange(5)
    with open_trace(whole) as trace, pytest.raises(TraceError, match=r"/steps, rows 0 to 5: no rows"):
        trace.table("steps")


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
    with open(shard_path(shards_of(whole), "steps", 1), "wb") as file:
        np.lib.format.write_array(file, np.zeros(3))
    before = whole.read_bytes()
    with pytest.raises(TraceError, match="another version of the program"):
        merge(shards_of(whole))
    assert whole.read_bytes() == before
    assert list(whole.parent.glob("*.part")) == []


def test_the_schema_knows_the_wire(whole):
    assert {int(kind): kind.name.lower() for kind in wire.Kind} == KIND_NAMES
    assert wire.HEADER_BYTES == HEADER_BYTES
    assert {codec.id: name for name, codec in CODECS.items()} == CODEC_NAMES
