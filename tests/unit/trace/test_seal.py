"""A wrong byte in a trace file is named, wherever it is, and libhdf5 never sees a damaged description."""

from __future__ import annotations

import random

import h5py
import numpy as np
import pytest

from qafel_mpi.trace import seal
from qafel_mpi.trace.merge import merge, shards_of
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace.seal import Seal, write_seal
from qafel_mpi.trace.shards import TraceError
from qafel_mpi.trace_schema import TABLES


def read_all(path, **options):
    with open_trace(path, **options) as trace:
        trace.verify()
        tables = {name: trace.table(name).tobytes() for name in TABLES}
        return tables, dict(trace.attributes), trace.final("x")


@pytest.mark.parametrize("salvage", [False, True])
def test_a_wrong_byte_anywhere_is_an_error_that_names_the_file(whole, salvage):
    """300 bytes at random (seed 0), each changed alone, and the first and last of the file."""
    content = bytearray(whole.read_bytes())
    places = random.Random(0)
    for place in [0, len(content) - 1, *places.sample(range(len(content)), 300)]:
        good = content[place]
        content[place] ^= 1 << places.randrange(8)
        whole.write_bytes(content)
        with pytest.raises(TraceError, match=r"a\.h5"):
            read_all(whole, salvage=salvage)
        content[place] = good
    whole.write_bytes(content)
    read_all(whole)


def test_the_message_names_the_table_whose_rows_are_damaged(whole):
    with h5py.File(whole) as file:
        place = file["steps"].id.get_offset() + 50
    content = bytearray(whole.read_bytes())
    content[place] ^= 4
    whole.write_bytes(content)
    with open_trace(whole) as trace:
        assert len(trace.table("messages")) == 3000
        with pytest.raises(TraceError, match=r"damaged: /steps, bytes 0 to .*: wrong checksum"):
            trace.table("steps")


def test_a_damaged_description_never_reaches_libhdf5(whole, monkeypatch):
    content = bytearray(whole.read_bytes())
    content[100] ^= 0xFF
    whole.write_bytes(content)
    monkeypatch.setattr(h5py, "File", lambda *_, **__: pytest.fail("libhdf5 opened a damaged file"))
    with pytest.raises(TraceError, match="wrong checksum"):
        open_trace(whole)


def test_rows_are_compared_piece_by_piece_where_they_are_read(whole, monkeypatch):
    monkeypatch.setattr(seal, "PIECE_BYTES", 10_000)
    merge(shards_of(whole))
    with h5py.File(whole) as file:
        table = file["messages"]
        offset, size = table.id.get_offset(), table.dtype.itemsize
    content = bytearray(whole.read_bytes())
    content[offset + 2000 * size] ^= 1
    whole.write_bytes(content)
    with open_trace(whole) as trace:
        blocks = trace.blocks("messages", rows=500)
        assert [len(next(blocks)) for _ in range(3)] == [500] * 3
        with pytest.raises(TraceError, match="/messages, bytes"):
            list(blocks)


def test_a_trace_edited_on_purpose_is_sealed_anew(whole):
    with h5py.File(whole, "r+"):
        pass  # looked at only
    open_trace(whole).close()
    with h5py.File(whole, "r+") as file:
        file.attrs["note"] = "mine"
    with pytest.raises(TraceError, match="qafel-mpi seal"):
        open_trace(whole)
    write_seal(whole)
    write_seal(whole)  # twice is as good as once
    with open_trace(whole) as trace:
        assert trace.attributes["note"] == "mine"


def test_a_file_without_a_seal_is_read_as_before(whole):
    before = read_all(whole)
    content = whole.read_bytes()
    with h5py.File(whole, "r+") as file:
        del file["seal"]
    whole.write_bytes(whole.read_bytes().replace(b"QFSEAL1", b"-------"))
    assert Seal.of(whole) is None
    assert whole.read_bytes() != content
    after = read_all(whole)
    assert after[:2] == before[:2]
    assert np.array_equal(after[2], before[2])
