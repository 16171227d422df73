"""A data set is in a host's memory once: who loads it, who sees it, and what happens where MPI gives no window."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi.drivers import warmup
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.tasks import datasets
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.transport import window
from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.window import HostArrays, MadeElsewhereError


def wait(ready, what) -> None:
    wait_until(ready, what, patience_s=10.0, backoff=Backoff(crowded=True))


def some_arrays() -> window.Arrays:
    """Of several types, sizes and orders; one has a single number, one none."""
    return {
        "x": np.arange(600, dtype=np.float32).reshape(20, 3, 10),
        "y": np.arange(20, dtype=np.int64)[::-1],
        "pixels": np.arange(77, dtype=np.uint8),
        "one": np.array(7.5),
        "none": np.zeros((0, 4)),
        "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    }


def refuse_windows(monkeypatch, *, here: bool = True) -> None:
    """What an MPI library without shared windows does, on this rank."""

    def refused(*words, **more):
        raise NotImplementedError("not in this library")

    if here:
        monkeypatch.setattr(
            window, "MPI", SimpleNamespace(**vars(MPI) | {"Win": SimpleNamespace(Allocate_shared=refused)})
        )


def equal(found: window.Arrays) -> bool:
    wanted = some_arrays()
    return list(found) == list(wanted) and all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype
        for name, array in wanted.items()
    )


def held(comm, **options) -> tuple[window.Arrays, HostArrays, int]:
    """Collective: some_arrays as this rank sees them, what holds them, and how often this rank has made them."""
    made = []

    def make() -> window.Arrays:
        made.append(1)
        return some_arrays()

    memory = HostArrays(comm, wait, **options)
    return memory.once(make), memory, len(made)


def test_one_rank_of_a_host_makes_the_arrays_and_all_see_them_read_only(comm):
    found, memory, made = held(comm)
    seen = comm.allgather(
        (equal(found), any(a.flags.writeable for a in found.values()), made, memory.why_not)
    )
    assert seen == [(True, False, int(rank == 0), "") for rank in range(comm.size)]
    memory.close()


@pytest.mark.mpi(min_size=2)
def test_the_arrays_lie_in_one_place_for_all_ranks(comm):
    """What the first rank writes into the window, the others read in their arrays."""
    found, memory, _ = held(comm)
    comm.Barrier()
    if comm.rank == 0:
        place, _ = memory._windows[0].Shared_query(0)
        np.frombuffer(place, np.uint8)[:] = 255
    memory._windows[0].Fence()
    assert comm.allgather(int(found["pixels"].sum())) == [77 * 255] * comm.size
    memory.close()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("who", ["everybody", "the last rank"])
def test_without_a_window_each_rank_has_a_copy_from_the_rank_that_made_it(comm, monkeypatch, who):
    if who == "everybody":  # a rank that is refused alone can't be had: others would wait in MPI's own call
        refuse_windows(monkeypatch)
    monkeypatch.setattr(window, "PART_BYTES", 100)
    found, memory, made = held(comm, share=who == "everybody")
    seen = comm.allgather((equal(found), any(a.flags.writeable for a in found.values()), made))
    assert seen == [(True, False, int(rank == 0)) for rank in range(comm.size)]
    assert ("no shared window: not in this library" in memory.why_not) == (who == "everybody")
    memory.close()


@pytest.mark.mpi(min_size=2)
def test_a_window_that_the_host_has_no_room_for_is_not_asked_for(comm, monkeypatch):
    """Some libraries would find out when it is written, and be killed."""
    refuse_windows(monkeypatch)
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=16_000, f_frsize=4096))
    found, memory, _ = held(comm)
    assert comm.allgather(equal(found)) == [True] * comm.size
    assert memory.why_not == "/dev/shm has 66 MB left, and the data take 0 MB"
    memory.close()


def test_what_making_them_raises_is_raised_on_every_rank(comm):
    def make():
        raise DataError("mine.csv, line 3: no number")

    memory = HostArrays(comm, wait)
    with pytest.raises(DataError if comm.rank == 0 else MadeElsewhereError, match=r"mine\.csv, line 3"):
        memory.once(make)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("driver", [wall, virtual])
def test_a_run_loads_its_data_on_one_rank_a_host(comm, folder, digits, monkeypatch, driver):
    loads = []
    load = datasets.DATASETS["digits"]
    monkeypatch.setitem(datasets.DATASETS, "digits", lambda *words: loads.append(1) or load(*words))
    kind = driver.__name__.split(".")[-2]
    driver.run(digits(f"clock.kind={kind}"), comm, folder / "a.h5")
    assert comm.allgather(len(loads)) == [1] + [0] * (comm.size - 1)


@pytest.mark.mpi(min_size=2)
def test_a_run_without_windows_says_so_once(comm, folder, digits, monkeypatch, capfd):
    refuse_windows(monkeypatch)
    warmup.say_once.cache_clear()
    for name in ("a.h5", "b.h5"):
        wall.run(digits(), comm, folder / name)
    said = capfd.readouterr().err.count(
        f"each rank keeps a copy of the data: {socket.gethostname()}: MPI gives no shared window: not in this library"
    )
    assert comm.allgather(said) == [1] + [0] * (comm.size - 1)


@pytest.mark.mpi(min_size=2)
def test_data_that_can_t_be_loaded_end_the_run_on_every_rank_alike(comm, folder, digits, monkeypatch):
    def broken(*words):
        raise DataError("digits.csv: cut short")

    monkeypatch.setitem(datasets.DATASETS, "digits", broken)
    with pytest.raises(DataError, match=r"digits\.csv: cut short"):
        wall.run(digits(), comm, folder / "a.h5")
