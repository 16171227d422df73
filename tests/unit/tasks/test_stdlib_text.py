"""The standard library as a data set: one user a module, a fixed split, bounded, and the same every time."""

from __future__ import annotations

import math
import string
import sys
from pathlib import Path

import numpy as np
import pytest

from qafel_mpi.tasks import DataError, build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.datasets import stdlib_text
from qafel_mpi.tasks.stdlib_text import held_out, read_stdlib


def settings(**more: object) -> TaskConfig:
    small = {"dataset": "stdlib-text", "model": "transformer", "partition": {"kind": "natural"}, "width": 8}
    return TaskConfig.model_validate(small | {"depth": 1, "heads": 2, "context": 16, "clients": 100} | more)


def test_modules_are_the_interpreters_own_and_none_is_on_both_sides() -> None:
    train, test = read_stdlib(1000)
    assert not train.keys() & test.keys()
    assert {*train, *test} <= set(sys.stdlib_module_names)
    assert len(train) > 100
    assert len(test) > 20
    assert max(map(len, (*train.values(), *test.values()))) == 1000
    assert train["string"] == Path(string.__file__).read_bytes()[:1000]


def test_the_split_is_by_the_names_hash_alone() -> None:
    assert [name for name in ("abc", "base64", "email", "json", "queue", "string") if held_out(name)] == [
        "base64",
        "email",
        "queue",
    ]


def test_packages_are_read_in_the_order_of_their_paths_and_unreadable_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "json" / "b").mkdir(parents=True)
    (tmp_path / "json" / "b" / "c.py").write_bytes(b"third")
    (tmp_path / "json" / "__init__.py").write_bytes(b"first")
    (tmp_path / "json" / "a.py").write_bytes(b"second")
    (tmp_path / "json" / "._a.py").write_bytes(b"macOS's")
    (tmp_path / "json" / "a.txt").write_bytes(b"no source")
    (tmp_path / "json" / "gone.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "queue.py").write_bytes(b"0123456789" * 3)
    (tmp_path / "not_of_the_library.py").write_bytes(b"x")
    assert read_stdlib(16, tmp_path) == ({"json": b"firstsecondthird"}, {"queue": b"0123456789012345"})


def test_a_library_without_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"stdlib-text: {tmp_path} holds too little"):
        read_stdlib(100, tmp_path)


def test_it_is_the_same_every_time_and_users_are_modules() -> None:
    first, again = (stdlib_text(settings(bytes_per_client=500), None, 100, seed) for seed in (0, 1))
    assert first.digest() == again.digest()
    assert np.array_equal(first.x[:, 1:], first.y[:, :-1])
    assert first.groups is not None
    assert np.bincount(first.groups).max() == 499 // 16
    assert len(np.unique(first.groups)) == 100


def test_a_client_is_one_module_and_the_shortest_modules_are_left_out() -> None:
    train, _ = read_stdlib(2000)
    task = build(settings(bytes_per_client=2000, clients=20), ClientConfig(), seed=0)
    assert [task.examples(client) for client in range(20)] == [1999 // 16] * 20
    with pytest.raises(DataError, match=r"5000 clients and \d+ users"):
        build(settings(clients=5000), ClientConfig(), seed=0)
    everything = stdlib_text(
        settings(bytes_per_client=2000, partition={"kind": "iid"}, clients=3), None, 3, 0
    )
    assert len(everything.x) == sum(max(0, len(text) - 1) // 16 for text in train.values())


def test_its_entropy_is_that_of_real_text_and_a_run_knows_it() -> None:
    task = build(settings(bytes_per_client=2000), ClientConfig(), seed=0)
    assert 4 < task.entropy_bits_per_byte < 5
    assert task.bits_per_byte(math.log(256)) == pytest.approx(8)
    assert task.evaluate(task.initial(0), 20).loss == pytest.approx(math.log(256), rel=0.05)
    other = build(TaskConfig(), ClientConfig(), seed=0)
    assert math.isnan(other.bits_per_byte(1.0))
    assert math.isnan(other.entropy_bits_per_byte)
