"""A state in a file: whole, or refused."""

import json
import struct

import numpy as np
import pytest
from fastcrc import crc32

from qafel_mpi.drivers.survival.container import CheckpointError, copied, nbytes, read, write

EVENT = np.dtype([("t_s", "<f8"), ("client", "<i8"), ("reports", "?")])


def state():
    return {
        "x": np.arange(100, dtype=np.float32),
        "nested": {
            "rows": np.array([(1.5, 3, True), (2.5, 4, False)], EVENT),
            "empty": np.zeros((0, 3), int),
        },
        "generator": np.random.Philox(7).state,
        "plain": [1, 2.5, None, "ü", True, 2**64 - 1],
        "nan": float("nan"),
        "scalar": np.float64(0.1),
    }


def same(a, b):
    assert a.keys() == b.keys()
    for name, value in a.items():
        if isinstance(value, dict):
            same(value, b[name])
        elif isinstance(value, np.ndarray):
            assert value.dtype == b[name].dtype
            assert value.shape == b[name].shape
            assert value.tobytes() == b[name].tobytes()
        else:
            assert value == b[name] or value != value


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "a.qck"
    assert write(path, state()) == path.stat().st_size
    same(state(), read(path))
    assert [p.name for p in tmp_path.iterdir()] == ["a.qck"]


def test_a_copy_stays_as_it_is_when_the_original_goes_on():
    original = state()
    kept = copied(original)
    original["x"][:] = 0
    same(state(), kept)
    assert nbytes(kept["nested"]) == 2 * EVENT.itemsize


def test_any_wrong_byte_is_found(tmp_path):
    """92 bytes of the file, each flipped in one bit, seed 0: all of the head, others anywhere but in padding."""
    path = tmp_path / "a.qck"
    write(path, state())
    whole = path.read_bytes()
    document_end = 32 + struct.unpack_from("<Q", whole, 8)[0]
    rng = np.random.default_rng(0)
    for at in [*range(32), *rng.integers(32, document_end, 60)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"damaged|not a checkpoint|format"):
            read(path)
    damaged = bytearray(whole)
    damaged[whole.index(np.arange(100, dtype=np.float32).tobytes()) + 77] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"array 0 .*wrong checksum"):
        read(path)


@pytest.mark.parametrize("length", [0, 3, 31, 32, 100, -1])
def test_a_file_that_was_cut_short_is_refused(tmp_path, length):
    path = tmp_path / "a.qck"
    write(path, state())
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"damaged|not a checkpoint"):
        read(path)


def made(document: object) -> bytes:
    """A file whose checksums are right, around any document."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    size = -(-(32 + len(text)) // 64) * 64
    head = struct.pack("<4sIQQI", b"QFCK", 1, len(text), size, crc32.iscsi(text))
    return (head + struct.pack("<I", crc32.iscsi(head)) + text).ljust(size, b"\0")


HUGE = {"dtype": "<f8", "shape": [2**40, 2**20], "at": 0, "crc": 0}


@pytest.mark.parametrize(
    "document",
    [
        b"\xff",
        b"[" * 100_000,
        [],
        {"state": []},
        {"state": {}, "arrays": [HUGE]},
        {"state": {}, "arrays": [HUGE | {"shape": [-1]}]},
        {"state": {}, "arrays": [HUGE | {"shape": [0] * 99}]},
        {"state": {}, "arrays": [HUGE | {"dtype": "O", "shape": [1]}]},
        {"state": {}, "arrays": [HUGE | {"dtype": [["a", "O"]], "shape": [1]}]},
        {"state": {}, "arrays": [HUGE | {"dtype": "V999999999", "shape": [1]}]},
        {"state": {}, "arrays": [HUGE | {"dtype": "nothing", "shape": [1]}]},
        {"state": {}, "arrays": [HUGE | {"at": -64, "shape": [1]}]},
        {"state": {}, "arrays": [HUGE | {"at": float("inf"), "shape": [1]}]},
        {"state": {"$array": 5}, "arrays": []},
        {"state": {"a": {"$array": "x"}}, "arrays": []},
    ],
    ids=lambda document: str(document)[:60],
)
def test_a_file_of_somebody_elses_making_is_refused_without_asking_for_memory(tmp_path, document):
    path = tmp_path / "a.qck"
    path.write_bytes(made(document))
    with pytest.raises(CheckpointError, match="not a checkpoint that this program wrote"):
        read(path)


def test_of_another_format_or_of_another_program(tmp_path):
    path = tmp_path / "a.qck"
    head = struct.pack("<4sIQQI", b"QFCK", 2, 0, 64, 0)
    path.write_bytes((head + struct.pack("<I", crc32.iscsi(head))).ljust(64, b"\0"))
    with pytest.raises(CheckpointError, match="format 2; this version reads format 1"):
        read(path)
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(CheckpointError, match="not a checkpoint of qafel-mpi"):
        read(path)
    with pytest.raises(CheckpointError, match="No such file"):
        read(tmp_path / "none.qck")


def test_a_disk_that_refuses_leaves_the_one_before_and_no_part(tmp_path, monkeypatch):
    path = tmp_path / "a.qck"
    write(path, {"n": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, {"n": 2})
    monkeypatch.undo()
    assert read(path) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.qck"]
