"""Data files with any bytes changed, and files made to be wrong: data, or a DataError that names the file."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qafel_mpi.parsing import DataError, read_json
from qafel_mpi.schedule.config import DurationConfig
from qafel_mpi.schedule.draws import mean_duration
from qafel_mpi.tasks import celeba, formats
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.files import load
from tests.fuzz.bounds import bounded, inputs
from tests.fuzz.mutations import changed, changes

LIBSVM = b"".join(b"%d %d:1 %d:0.5\n" % (1 + k % 2, 1 + k, 20 + k) for k in range(20))
IDX = b"\0\0\x08\3" + struct.pack(">3I", 2, 28, 28) + bytes(2 * 28 * 28)
LEAF = json.dumps(
    {
        "users": ["a", "b"],
        "num_samples": [6, 6],
        "user_data": {u: {"x": [[0.5, k] for k in range(6)], "y": [0, 1, 2, 0, 1, 2]} for u in "ab"},
    }
).encode()
TWEETS = json.dumps(
    {
        "user_data": {
            u: {"x": [["1", "Mon", "NO", u, f"so {k}"] for k in range(6)], "y": [0, 1] * 3} for u in "ab"
        }
    }
).encode()
IDENTITIES = b"".join(b"%06d.jpg %d\n" % (k, k // 5) for k in range(15))
ATTRIBUTES = b"15\nBald Smiling\n" + b"".join(b"%06d.jpg -1 %d\n" % (k, 1 - 2 * (k % 2)) for k in range(15))


def npz(**more: Any) -> bytes:
    file = io.BytesIO()
    whole: dict[str, Any] = {
        "x": np.arange(24, dtype=np.float32).reshape(12, 2),
        "y": np.arange(12) % 3,
        "client": np.array(list("aabb" * 3)),
    }
    np.savez(file, **(whole | more))
    return file.getvalue()


def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {
        "x": [[0.5, float(k)] for k in range(12)],
        "y": [k % 3 for k in range(12)],
        "client": ["a", "b"] * 6,
    }
    file = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), file)
    return file.getvalue().to_pybytes()


def hdf5() -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        for user in "ab":
            group = made.create_group(f"examples/{user}")
            group["pixels"] = np.full((6, 4, 4), 0.5, np.float32)
            group["label"] = np.arange(6) % 3
    return file.getvalue()


def texts() -> bytes:
    """Texts of any length and chunks: what libhdf5 has to interpret."""
    file = io.BytesIO()
    with h5py.File(file, "w") as made:
        for user in "ab":
            words = [f"to be or not to be {k}" for k in range(6)]
            made.create_dataset(
                f"examples/{user}/snippets", data=words, dtype=h5py.string_dtype(), chunks=(2,)
            )
    return file.getvalue()


def cifar() -> bytes:
    return pickle.dumps(
        {b"labels": [k % 10 for k in range(5)], b"data": np.zeros((5, 3072), np.uint8)}, protocol=2
    )


def leaf(path: Path) -> object:
    return load(TaskConfig(dataset=f"leaf:{path}"), None)


READERS = {
    "a.libsvm": (LIBSVM, lambda path: formats.read_libsvm(path, features=60)),
    "a-idx3-ubyte": (IDX, lambda path: formats.read_idx(path, dimensions=3)),
    "b-idx3-ubyte.gz": (gzip.compress(IDX, mtime=0), lambda path: formats.read_idx(path, dimensions=3)),
    "leaf.json": (LEAF, leaf),
    "tweets.json": (TWEETS, leaf),
    "a.npz": (npz(), lambda path: load(TaskConfig(dataset=f"npz:{path}"), None)),
    "a.parquet": (parquet(), lambda path: load(TaskConfig(dataset=f"parquet:{path}"), None)),
    "data_batch_1": (cifar(), formats._cifar_pickled),
    "data_batch_1.bin": (bytes([3]) + bytes(3072), formats._cifar_binary),
    "durations.txt": (
        b"1.5\n2 # two\n3\n",
        lambda path: mean_duration(DurationConfig(kind="file", path=path)),
    ),
    "users.json": (
        json.dumps({"users": ["a"], "user_data": {"a": {"x": ["1.jpg"], "y": [0.0]}}}).encode(),
        lambda path: celeba._leaf_users([path]),
    ),
    "list_attr_celeba.txt": (ATTRIBUTES, lambda path: celeba._users_of_lists(path.parent)),
    "identity_CelebA.txt": (IDENTITIES, lambda path: celeba._users_of_lists(path.parent)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every file as it should be: readers have been here, so that all is loaded before memory is bounded."""
    folder = tmp_path_factory.mktemp("data")
    for name, (whole, _) in READERS.items():
        (folder / name).write_bytes(whole)
    for name, (_, read) in READERS.items():
        read(folder / name)
    return folder


def read(folder: Path, name: str, data: bytes) -> None:
    """Afterwards the file is as it was."""
    whole, reader = READERS[name]
    path = folder / name
    path.write_bytes(data)
    try:
        with bounded():
            reader(path)
    except DataError as error:
        assert name in str(error) or "identity_CelebA" in str(error), error
    finally:
        path.write_bytes(whole)


@given(name=st.sampled_from(sorted(READERS)), done=changes())
@inputs(400)
def test_a_changed_file_is_read_or_refused(folder, name, done):
    read(folder, name, changed(READERS[name][0], done))


@given(name=st.sampled_from(sorted(READERS)), data=st.binary(max_size=200))
@inputs(200)
def test_bytes_of_nobody_are_refused(folder, name, data):
    read(folder, name, data)


NAMES = st.sampled_from(["a", "users", "x", "y", "user_data", "num_samples"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(users=JSON, data=JSON, counts=JSON, x=JSON, y=JSON, name=st.sampled_from(["leaf.json", "users.json"]))
@example(["a"], {}, None, [[1.0]], [1e300], "leaf.json")
@example(["a"], {}, None, [[10**400]], [0], "leaf.json")
@example(["a"], {}, None, [["x"]] * 6, [10**17] * 6, "leaf.json")
@inputs(150)
def test_json_of_any_shape_is_read_or_refused(folder, users, data, counts, x, y, name):
    if not data:
        data = {"a": {"x": x, "y": y}}
    content = {"users": users, "user_data": data, "num_samples": counts}
    if counts is None:
        del content["num_samples"]
    read(folder, name, json.dumps(content).encode())


ARRAYS = st.sampled_from(
    [
        *(np.zeros(12, kind) for kind in ("?", "M8[s]", "c16", "V3", "f2", [("a", "f4")], "i8")),
        *(np.full(12, value) for value in (2**62, -1, 1e300, np.nan, np.inf, "x", b"\xff")),
        *(np.zeros((12, 2), kind) for kind in ("u1", "u8", "i8", "f4")),
        *(np.zeros(shape) for shape in (0, (12, 0), (12, 2, 2, 2), ())),
        np.arange(12),
        np.full((12, 2), 2**40),
        np.full((12, 2), 2**64 - 1, np.uint64),
    ]
)


@given(x=ARRAYS, y=ARRAYS, client=ARRAYS, alone=st.booleans())
@inputs(60)
def test_npz_arrays_of_any_kind_are_read_or_refused(folder, x, y, client, alone):
    more = {"x": x} if alone else {"x": x, "y": y, "client": client}
    read(folder, "a.npz", npz(**more))


def bomb(member: str, size: int) -> bytes:
    """An .npz whose array says that it has so many bytes, of which there are few."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }" % size
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr(
            member,
            b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(1 << 20),
        )
    return file.getvalue()


@pytest.mark.parametrize("size", [2**31, 2**62, 2**63])
def test_an_array_that_says_it_is_huge_is_refused(folder, size):
    read(folder, "a.npz", bomb("x.npy", size))


def test_a_compressed_file_that_would_grow_is_refused_before_it_does(folder):
    read(folder, "b-idx3-ubyte.gz", gzip.compress(IDX + bytes(1 << 28) * 2, 1))


class Deep:
    """Pickles as a call of whatever is put in."""

    def __init__(self, *call: object):
        self.call = call

    def __reduce__(self):
        return self.call


def test_a_pickle_runs_nothing(folder, tmp_path):
    mark = tmp_path / "mark"
    for call in ((Path.touch, (mark,)), (exec, (f"open({str(mark)!r}, 'w')",)), (np.load, (str(mark),))):
        read(folder, "data_batch_1", pickle.dumps({b"labels": Deep(*call)}))
    assert not mark.exists()


def test_json_that_is_nested_too_deep_is_refused(tmp_path):
    path = tmp_path / "deep.json"
    for text in ("[" * 100_000, '{"a":' * 100_000, "1" * 10_000, '"\\ud800"', "1e999"):
        path.write_text(text)
        try:
            with bounded():
                read_json(path)
        except DataError as error:
            assert "deep.json" in str(error)


@given(whole=st.sampled_from([hdf5(), texts()]), done=changes(2))
@inputs(6)
def test_hdf5_of_others_is_read_or_refused_and_no_signal_ends_the_process(tmp_path_factory, whole, done):
    path = tmp_path_factory.getbasetemp() / "tff.h5"
    path.write_bytes(changed(whole, done))
    try:
        load(TaskConfig(dataset=f"tff:{path}"), None)
    except DataError as error:
        assert "tff.h5" in str(error)
