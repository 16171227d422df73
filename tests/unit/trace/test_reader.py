"""The trace: what was flushed survives, what was recorded comes back, what is broken is named."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

from qafel_mpi.trace import shards
from qafel_mpi.trace.merge import digest, merge, merged_into, shards_of, write_final, write_run
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import TraceError, UnavailableError, read_blocks, scan, shard_path
from qafel_mpi.trace_schema import CODEC_NAMES, END_NAMES, KIND_NAMES, MESSAGES, SCHEMA_VERSION, TABLES
from tests.no_locks import without_locks
from tests.unit.trace.made import edited

NAN = float("nan")


def message(sequence, t=1.0, **others):
    values = dict.fromkeys(MESSAGES.names, 0) | {"sequence": sequence, "t_post": t, "t_complete": t + 1}
    values |= others
    return tuple(values[name] for name in MESSAGES.names)


@pytest.fixture
def run(tmp_path):
    """A finished run of two ranks: 10 messages on rank 0, 7 on rank 1, whose clock is 5 s behind."""
    out = tmp_path / "a.h5"
    directory = shards_of(out)
    for rank, n in ((0, 10), (1, 7)):
        recorder = Recorder(directory, rank, capacity=4)
        for k in range(n):
            recorder.messages.append(message(k, t=100.0 + k - 5.0 * rank))
        if rank == 0:
            for r, offset in ((0, 0.0), (1, 5.0)):
                for sync in range(2):
                    recorder.clock.append((r, sync, 95.0 + 20 * sync, offset, NAN, 1e-6))
        recorder.close()
    write_run(directory, {"outcome": "finished", "origin_s": 100.0, "versions": {"python": "3"}})
    write_final(directory, x=np.arange(3.0), x_hat=np.arange(3.0) + 1)
    return out


def test_every_row_comes_back_after_the_merge(run):
    merged = merge(shards_of(run))
    assert merged.path == run
    assert merged.rows["messages"] == 17
    with open_trace(run) as trace:
        assert trace.rows("messages") == 17
        assert sorted(trace.table("messages")["sequence"].tolist()) == sorted([*range(10), *range(7)])
        assert np.concatenate(list(trace.blocks("messages", rows=5))).size == 17
        assert trace.attributes["outcome"] == "finished"
        assert trace.digest("x") == digest(np.arange(3.0))
        assert (trace.final("x_hat") == np.arange(3.0) + 1).all()


def test_plain_h5py_reads_the_file(run):
    merge(shards_of(run))
    with h5py.File(run) as file:
        assert set(TABLES) <= set(file)
        assert file["messages"].dtype == MESSAGES
        assert file.attrs["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize(
    ("column", "names"), [("end", END_NAMES), ("kind", KIND_NAMES), ("codec", CODEC_NAMES)]
)
def test_plain_h5py_finds_the_names_that_numbers_stand_for(run, column, names):
    """A number without a name comes back too."""
    recorder = Recorder(shards_of(run), 2)
    for number in (*names, 250):
        recorder.messages.append(message(0, **{column: number}))
    recorder.close()
    merge(shards_of(run))
    with h5py.File(run) as file:
        numbers = h5py.check_enum_dtype(file["messages"].dtype[column])
        assert {name: number for number, name in names.items()}.items() <= numbers.items()
        assert file["messages"][column][17:].tolist() == [*names, 250]


def test_a_trace_from_before_the_names_reads_the_same(run):
    """Its columns are plain numbers."""
    merge(shards_of(run))
    with open_trace(run) as trace:
        rows = trace.table("messages")
    with edited(run) as file:
        del file["messages"]
        file["messages"] = rows.astype(MESSAGES)
        assert h5py.check_enum_dtype(file["messages"].dtype["kind"]) is None
    with open_trace(run) as trace:
        assert (trace.table("messages") == rows).all()


def test_times_are_corrected_to_rank_0s_clock_and_raw_ones_are_kept(run):
    merge(shards_of(run))
    with h5py.File(run) as file:
        posted, raw = file["messages"]["t_post"], file["raw/messages"]["t_post"]
    assert posted[10:].tolist() == pytest.approx(list(range(7)))  # rank 1, 5 s behind, from origin 100
    assert raw[10:].tolist() == [95.0 + k for k in range(7)]


def test_a_torn_block_is_cut_off_and_the_rest_is_kept(run):
    path = shard_path(shards_of(run), "messages", 0)
    whole = path.read_bytes()
    for cut in (1, 40, 200):
        path.write_bytes(whole[:-cut])
        assert scan(path).torn_bytes > 0
        assert sum(len(block) for block in read_blocks(path)) == 8  # the last block held 2 rows
    merged = merge(shards_of(run))
    assert merged.rows["messages"] == 15
    assert merged.lost == {path.name: scan(path).torn_bytes}
    with open_trace(run) as trace:
        assert json.loads(trace.attributes["lost_bytes"]) == merged.lost


def test_a_run_that_was_killed_is_merged_and_says_that_it_failed(run):
    directory = shards_of(run)
    (directory / "run.json").unlink()
    (directory / "final.x.npys").unlink()
    (directory / "final.x_hat.npys").unlink()
    assert merge(directory).outcome.startswith("failed")
    with open_trace(run) as trace:
        assert trace.final("x") is None
        assert trace.digest("x") == ""


def test_the_shards_go_only_after_the_file_is_whole(run):
    directory = shards_of(run)
    merge(directory, remove=True)
    assert run.exists()
    assert not directory.exists()
    assert not run.with_name("a.h5.part").exists()


def test_shards_that_cannot_be_removed_fail_nothing(run):
    """A network file system keeps what is open elsewhere under such a name."""
    directory = shards_of(run)
    (directory / ".nfs0000000000000001").touch()
    merged = merge(directory, remove=True)
    assert "can't be removed (Directory not empty" in merged.not_removed
    assert [path.name for path in directory.iterdir()] == [".nfs0000000000000001"]
    with open_trace(run) as trace:
        assert trace.rows("messages") == 17


def test_a_command_line_that_is_no_utf8_is_kept_as_escapes(tmp_path):
    out = tmp_path / os.fsdecode(b"n\xff.h5")
    recorder = Recorder(shards_of(out), 0)
    recorder.messages.append(message(0))
    recorder.close()
    write_run(shards_of(out), {"command": ["run", str(out)], "name": os.fsdecode(b"n\xff")})
    merge(shards_of(out))
    assert merged_into(shards_of(out)) == out
    with open_trace(out) as trace:
        assert trace.attributes["name"] == "n\\udcff"


def test_merge_names_what_it_cannot_use(tmp_path):
    with pytest.raises(TraceError, match=r"nowhere\.shards: no such folder"):
        merge(tmp_path / "nowhere.shards")
    (tmp_path / "empty.shards").mkdir()
    with pytest.raises(TraceError, match=r"neither run\.json nor shards"):
        merge(tmp_path / "empty.shards")


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path):
    recorder = Recorder(tmp_path / "a.shards", 0)
    recorder.messages.append(message(1))
    recorder.messages._writer.path = tmp_path / "no" / "such" / "\0folder"
    with pytest.raises((TraceError, ValueError)):
        recorder.flush()


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "empty file"), (b"not hdf5 at all" * 100, "not an HDF5 file"), (None, "no such file")],
)
def test_files_that_are_no_traces_are_refused_by_name(tmp_path, content, says):
    path = tmp_path / "bad.h5"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TraceError, match=rf"bad\.h5: {says}"):
        open_trace(path)


def test_a_trace_that_a_killed_run_never_made_is_told_from_a_wrong_name(run):
    with pytest.raises(
        TraceError, match=r"a\.h5: no such file; .*`qafel-mpi merge \S+a\.shards` makes a trace of it"
    ):
        open_trace(run)


def test_foreign_newer_and_truncated_files_are_told_apart(run):
    merge(shards_of(run))
    with edited(run) as file:
        file.attrs["schema_version"] = SCHEMA_VERSION + 1
    with pytest.raises(TraceError, match="update qafel_mpi"):
        open_trace(run)
    with edited(run) as file:
        del file.attrs["schema_version"]
    with pytest.raises(TraceError, match="not a trace of qafel_mpi"):
        open_trace(run)
    run.write_bytes(run.read_bytes()[:2000])
    with pytest.raises(TraceError, match="cut short"):
        open_trace(run)


def test_a_missing_table_leaves_the_others_readable(run):
    merge(shards_of(run))
    with edited(run) as file:
        del file["steps"]
    with open_trace(run) as trace, pytest.raises(TraceError, match=r"no table /steps; .*messages"):
        trace.table("steps")


# --- what can't be opened now is not what is broken -------------------------------------------------------


@contextmanager
def held_open_for_writing(path: Path) -> Iterator[None]:
    """As by a notebook in another process."""
    code = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        yield
        process.communicate()


@contextmanager
def forbidden(path: Path) -> Iterator[None]:
    """Without the permission to read it; for root, who may read all, as another user."""
    path.chmod(0)
    for folder in list(path.parents)[:3]:  # pytest's own folders are its user's alone
        folder.chmod(0o755)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)
        path.chmod(0o644)


@pytest.mark.parametrize("salvage", [False, True])
def test_a_trace_that_another_program_writes_is_busy_not_damaged(run, salvage):
    merge(shards_of(run))
    before = run.read_bytes()
    with held_open_for_writing(run), pytest.raises(UnavailableError, match=r"a\.h5: .*close it there"):
        open_trace(run, salvage=salvage)
    assert run.read_bytes() == before
    open_trace(run, salvage=salvage).close()


@pytest.mark.parametrize("salvage", [False, True])
def test_a_trace_that_may_not_be_read_is_forbidden_not_damaged(run, salvage):
    merge(shards_of(run))
    with forbidden(run), pytest.raises(UnavailableError, match=r"a\.h5: .*Permission denied.*no permission"):
        open_trace(run, salvage=salvage)
    run.write_bytes(run.read_bytes()[:3000])
    with pytest.raises(TraceError, match="cut short") as caught:
        open_trace(run)
    assert not isinstance(caught.value, UnavailableError)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_trace_is_made_and_read_where_the_disk_cannot_lock(run, tmp_path, number):
    code = (
        "import sys; from pathlib import Path; from qafel_mpi.trace.claim import take\n"
        "from qafel_mpi.trace.merge import merge; from qafel_mpi.trace.reader import open_trace\n"
        "take(Path(sys.argv[1]).with_name('b.shards'))\n"
        "merge(Path(sys.argv[1]))\n"
        "with open_trace(Path(sys.argv[1]).with_suffix('.h5')) as trace: print(trace.rows('messages'))"
    )
    environment = os.environ | without_locks(tmp_path, number)
    command = [sys.executable, "-c", code, str(shards_of(run))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("17\n", "")


def test_a_disk_that_does_not_answer_cuts_no_rows_off(run, monkeypatch):
    """Else the merge would leave rows out, and the shards be deleted after it."""

    def no_answer(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(shards, "_head", no_answer)
    path = shard_path(shards_of(run), "messages", 0)
    for read in (lambda: list(read_blocks(path)), lambda: scan(path)):
        with pytest.raises(UnavailableError, match=r"messages\.000000\.npys: .*Input/output error"):
            read()
    with pytest.raises(TraceError, match="Input/output error"):
        merge(shards_of(run), remove=True)
    assert path.exists()
