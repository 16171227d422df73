"""What MPI is given for messages of every size: no bytes are copied or added."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi.transport import large

SIZES = [1, 999, 1000, 1001, 1100, 1101, 5000]


@pytest.mark.parametrize("size", SIZES)
def test_a_message_is_its_first_bytes_whatever_they_are_sent_as(size, monkeypatch):
    monkeypatch.setattr(large, "MOST_BYTES", 1000)
    monkeypatch.setattr(large, "BLOCK_BYTES", 100)
    buffer = np.arange(6000, dtype=np.uint32).view(np.uint8)
    part, *how = large.spec(buffer, size)
    assert np.shares_memory(part, buffer)
    assert len(part) == size
    datatype = how[-1]
    assert how[:-1] == ([] if size <= 1000 else [1])
    if size > 1000:
        assert datatype.Get_extent() == (0, size)
        assert datatype.Get_size() == size
    into = np.zeros_like(buffer)
    received = MPI.COMM_SELF.Irecv(large.spec(into, size), 0, 1)
    MPI.COMM_SELF.Send(large.spec(buffer, size), 0, 1)
    status = MPI.Status()
    received.Wait(status)
    assert large.received(status, size) == size
    assert (into[:size] == buffer[:size]).all()
    assert not into[size:].any()


def test_the_limit_is_that_of_a_count_in_32_bits():
    assert np.iinfo(np.int32).max == large.MOST_BYTES
    assert large.PART_BYTES <= large.MOST_BYTES
