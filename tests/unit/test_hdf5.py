"""A file that libhdf5 can't bear ends a child process, not this one."""

from __future__ import annotations

import sys

import h5py
import pytest

from qafel_mpi import hdf5
from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.files import load
from qafel_mpi.trace.reader import TraceError, open_trace


@pytest.fixture
def whole(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("texts", data=["a", "b"] * 50, dtype=h5py.string_dtype(), chunks=(7,))
        file["scalar"], file["empty"] = 1, h5py.Empty("f4")
        file.attrs["about"] = "x" * 100
        file["link"] = h5py.SoftLink("/nowhere")
    return path


@pytest.fixture
def dying(tmp_path, monkeypatch):
    """Children end as libhdf5 would end them."""
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    hdf5._crash.cache_clear()
    monkeypatch.setattr(sys, "executable", str(script))
    yield
    hdf5._crash.cache_clear()


def test_a_file_that_is_whole_is_no_crash(whole):
    assert hdf5.crash(whole) == ""


def test_what_is_no_hdf5_or_not_there_needs_no_child(tmp_path, dying):
    (tmp_path / "a.txt").write_text("text")
    assert hdf5.crash(tmp_path / "a.txt") == ""
    assert hdf5.crash(tmp_path / "nothing") == ""


def test_the_signal_is_said_where_libhdf5_crashes(whole, dying):
    assert hdf5.crash(whole) == "libhdf5 crashes on it (SIGSEGV)"
    with pytest.raises(TraceError, match=r"a\.h5: damaged: libhdf5 crashes on it"):
        open_trace(whole)
    with pytest.raises(DataError, match=r"a\.h5: damaged: libhdf5 crashes on it"):
        load(TaskConfig(dataset=f"tff:{whole}"), None)


def test_a_file_that_libhdf5_comes_to_no_end_with_is_given_up(whole, tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(hdf5, "SECONDS", 0.1)
    hdf5._crash.cache_clear()
    assert hdf5.crash(whole) == "libhdf5 comes to no end with it"
    hdf5._crash.cache_clear()


def test_where_no_process_is_to_be_had_the_file_is_read_as_it_is(whole, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    hdf5._crash.cache_clear()
    assert hdf5.crash(whole) == ""
    hdf5._crash.cache_clear()


def test_a_changed_file_is_read_again(whole, dying):
    assert hdf5.crash(whole)
    with whole.open("ab") as file:
        file.write(b"more")
    assert hdf5._crash.cache_info().misses == 1
    assert hdf5.crash(whole)
    assert hdf5._crash.cache_info().misses == 2


def test_a_file_that_was_cut_reads_as_zeros_to_its_whole_length(tmp_path):
    (tmp_path / "cut").write_bytes(b"abc")
    file = hdf5.CutFile(tmp_path / "cut", 6)
    assert file.read() == b"abc\0\0\0"
    file.seek(4)
    assert file.read() == b"\0\0"
    file.close()
