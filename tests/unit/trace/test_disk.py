"""libhdf5 on a disk that refuses a write: the disk's own error, whichever write it is."""

from __future__ import annotations

import errno
import os

import h5py
import numpy as np
import pytest

from qafel_mpi.trace.disk import hdf5


def write(path):
    with hdf5(path, new=True) as file:
        file.attrs["text"] = "x" * 1000
        file.create_dataset("rows", (1000,), "f8")
        for begin in range(0, 1000, 100):
            file["rows"][begin : begin + 100] = np.arange(100.0)
        for k in range(20):
            file.create_group(f"group{k}")


def test_what_is_written_reads_back_and_can_be_added_to(tmp_path):
    write(tmp_path / "a.h5")
    with hdf5(tmp_path / "a.h5", new=False) as file:
        file["more"] = np.arange(3)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["rows"][:].tolist() == list(range(100)) * 10
        assert file["more"][:].tolist() == [0, 1, 2]


def test_the_disks_error_is_raised_whichever_write_it_refuses(tmp_path, monkeypatch):
    written = os.pwrite
    left = 10**6

    def pwrite(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return written(*arguments)

    monkeypatch.setattr(os, "pwrite", pwrite)
    write(tmp_path / "a.h5")
    writes = 10**6 - left
    assert writes > 10
    for allowed in range(writes):
        left = allowed
        with pytest.raises(OSError, match="quota exceeded"):
            write(tmp_path / "b.h5")


def test_an_error_of_the_one_who_writes_is_its_own(tmp_path):
    with pytest.raises(KeyError), hdf5(tmp_path / "a.h5", new=True) as file:
        file["nothing"]
