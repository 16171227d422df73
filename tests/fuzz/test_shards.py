"""A shard with any bytes changed: rows that were written, or a part that is left out and named; never others."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from fastcrc import crc32
from hypothesis import example, given
from hypothesis import strategies as st

from qafel_mpi.trace.merge import merge, read_run
from qafel_mpi.trace.shards import ShardWriter, TraceError, blocks_from, read_blocks, scan
from qafel_mpi.trace_schema import STEPS
from tests.fuzz.bounds import bounded, inputs
from tests.fuzz.mutations import changed, changes
from tests.unit.trace.made import row, whole_trace


def steps(version: int, rows: int) -> np.ndarray:
    return np.array([row(STEPS, version=version, uploads=k) for k in range(rows)], STEPS)


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "steps.000000.npys"
    writer = ShardWriter(path)
    for version, rows in enumerate((1, 50, 3, 200)):
        writer.append(steps(version, rows))
    writer.close()
    return path.read_bytes(), {steps(v, n).tobytes() for v, n in enumerate((1, 50, 3, 200))}


@given(done=changes())
@inputs(150)
def test_what_is_read_of_a_changed_shard_was_written(shard, tmp_path_factory, done):
    whole, blocks = shard
    path = tmp_path_factory.getbasetemp() / "changed.npys"
    path.write_bytes(changed(whole, done))
    with bounded():
        try:
            found = list(read_blocks(path))
            counted, verified = scan(path), scan(path, verify=True)
            assert list(blocks_from(path, 100)) is not None
        except TraceError as error:
            assert "changed.npys" in str(error)
            return
    assert all(block.tobytes() in blocks for block in found)
    assert sum(map(len, found)) == verified.rows <= counted.rows
    if sum(map(len, found)) < 254:
        assert verified.bad or verified.torn_bytes or len(path.read_bytes()) < len(whole)


def block(body: bytes, rows: int) -> bytes:
    """A block that somebody else has made, with right checksums."""
    head = struct.pack("<4sQQI", b"QSB1", len(body), rows, crc32.iscsi(body))
    return head + struct.pack("<I", crc32.iscsi(head)) + body


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def valid(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


HEADERS = [
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (9223372036854775807,), }\n",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }\n",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
    b"{'descr': '|V0', 'fortran_order': False, 'shape': (99999999999,), }\n",
    b"{'descr': [('a', '<f8'), ('a', '<f8')], 'fortran_order': False, 'shape': (1,), }\n",
    b"{'descr': '<f8', 'fortran_order': False, 'shape': 3}\n",
    b"[" * 9000,
    b"\xff\xfe",
    b"",
]


@given(
    body=st.sampled_from([npy(h, bytes(16)) for h in HEADERS]) | st.binary(max_size=300),
    rows=st.sampled_from([0, 1, 2, 2**40, 2**64 - 1]),
)
@example(valid(np.zeros(3)), 2**63)
@inputs(100)
def test_blocks_with_right_checksums_that_are_none_of_ours_are_left_out(tmp_path_factory, body, rows):
    path = tmp_path_factory.getbasetemp() / "foreign.npys"
    path.write_bytes(block(valid(np.zeros(2)), 2) + block(body, rows) + block(valid(np.ones(2)), 2))
    with bounded():
        found = list(read_blocks(path))
    assert [b.tolist() for b in (found[0], found[-1])] == [[0, 0], [1, 1]]
    assert scan(path, verify=True).bad or len(found) == 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The shards of a run; a test puts back what it changes."""
    return whole_trace(tmp_path_factory.mktemp("folder") / "a.h5").with_suffix(".shards")


@given(data=st.data(), done=changes(2))
@inputs(12)
def test_a_merge_of_changed_shards_names_what_it_leaves_out(folder, data, done):
    """Any file of the folder: rows, vectors, run.json."""
    path = data.draw(st.sampled_from(sorted(p for p in folder.iterdir() if p.suffix in (".npys", ".json"))))
    whole = path.read_bytes()
    content = changed(whole, done)
    if content == whole:
        return
    path.write_bytes(content)
    try:
        with bounded():
            merged = merge(folder)
        said = " ".join([*merged.warnings(), merged.outcome])
        # A vector or block that was cut off whole, at its end, is as if it had never been written; and bytes beside
        # blocks that are whole take nothing away.
        beside = len(content) < len(whole) or whole in content
        assert path.name in said or "recorded rows" in said or beside, said
    except TraceError as error:
        assert path.name in str(error) or str(folder) in str(error)
    finally:
        path.write_bytes(whole)


@given(data=st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
@example(b'{"sha256": 1, "run": []}')
@example(b"[" * 100_000)
@example(b'{"run": {"ranks": "x"}, "sha256": ""}')
@inputs(30)
def test_a_run_json_of_any_bytes_costs_no_rows(folder, data):
    path = folder / "run.json"
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        with bounded():
            assert read_run(folder)["outcome"].startswith("failed")
    finally:
        path.write_bytes(whole)
