"""A checkpoint with any bytes changed: the very state that was written, or an error that names the file."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
from fastcrc import crc32
from hypothesis import example, given
from hypothesis import strategies as st

from qafel_mpi.drivers.survival.container import FORMAT, MAGIC, CheckpointError, read, write
from tests.fuzz.bounds import bounded, inputs
from tests.fuzz.mutations import changed, changes

STATE = {
    "x": np.arange(1000, dtype=np.float32),
    "rows": np.zeros(3, [("client", "<i8"), ("loss", "<f8")]),
    "clock": {"now": 1.5, "heap": [[0.5, 1], [1.5, 2]], "keys": np.arange(7, dtype=np.uint64)},
    "none": None,
    "text": "q^t",
}


def same(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[k], other[k]) for k in one)
        )
    return one == other


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "whole"
    write(path, STATE)
    return path.read_bytes()


@given(done=changes())
@inputs(150)
def test_a_changed_checkpoint_is_refused_or_is_the_one_that_was_written(whole, tmp_path_factory, done):
    path = tmp_path_factory.getbasetemp() / "changed.checkpoint"
    path.write_bytes(changed(whole, done))
    try:
        with bounded():
            found = read(path)
    except CheckpointError as error:
        assert "changed.checkpoint" in str(error)
    else:
        assert same(STATE, found)  # a byte of the gaps between arrays is nobody's


PLACES = st.sampled_from([0, 1, 64, -64, 2**40, 2**63, 2**64, 1e300, "x", None])
SHAPES = st.lists(st.sampled_from([0, 1, 3, -1, 2**40, 2**63]), max_size=10) | st.just([2**32, 2**32])
TYPES = st.sampled_from(
    ["<f8", "|O", "|V0", "<U999999999", "M8", "(", "f8,f8", [["a", "<f8"]], [["a"]], [], None, 7]
)


def document(state: object, arrays: object) -> bytes:
    """A file with right checksums and whatever in it."""
    text = json.dumps({"state": state, "arrays": arrays}).encode()
    size = (32 + len(text) + 63) // 64 * 64 + 64
    head = struct.pack("<4sIQQI", MAGIC, FORMAT, len(text), size, crc32.iscsi(text))
    return (head + struct.pack("<I", crc32.iscsi(head)) + text).ljust(size, b"\0")


@given(
    arrays=st.lists(
        st.fixed_dictionaries({"dtype": TYPES, "shape": SHAPES, "at": PLACES, "crc": PLACES}), max_size=2
    ),
    state=st.sampled_from(
        [{}, [], None, {"x": {"$array": 0}}, {"x": {"$array": -1}}, {"x": {"$array": "y"}}, 3]
    ),
)
@example([{"dtype": "<f8", "shape": [2**63], "at": 0, "crc": 0}], {})
@inputs(100)
def test_a_checkpoint_that_somebody_else_made_is_read_or_refused(tmp_path_factory, arrays, state):
    path = tmp_path_factory.getbasetemp() / "foreign.checkpoint"
    path.write_bytes(document(state, arrays))
    try:
        with bounded():
            assert isinstance(read(path), dict)
    except CheckpointError as error:
        assert "foreign.checkpoint" in str(error)
