"""When a checkpoint is due, which are kept, and which one is used."""

import numpy as np
import pytest

from qafel_mpi.drivers.survival import checkpoints
from qafel_mpi.drivers.survival.checkpoints import INTERRUPTED, Checkpoints, newest, numbered
from qafel_mpi.drivers.survival.container import CheckpointError
from qafel_mpi.drivers.survival.every import Every


def numbers(directory):
    return [number for number, _ in numbered(directory)]


def written(directory, count):
    writer = Checkpoints(directory, Every(steps=1))
    for n in range(count):
        writer.keep(n, lambda n=n: {"n": n, "x": np.full(1000, n)})
        assert writer.wait()
    return writer


def test_the_last_two_are_kept_and_the_newest_is_used(tmp_path):
    writer = written(tmp_path, 5)
    assert numbers(tmp_path) == [5, 4]
    assert newest(tmp_path)[1]["n"] == 4
    assert writer.attributes()["checkpoints"]["written"] == 5
    assert numbers(tmp_path) == [5, 4]
    written(tmp_path, 1)  # of a run that goes on
    assert numbers(tmp_path) == [6, 5]


def test_a_damaged_one_gives_way_to_the_one_before_and_that_is_said(tmp_path):
    written(tmp_path, 3)
    (_, last), (_, before) = numbered(tmp_path)
    last.write_bytes(last.read_bytes()[:-10])
    said = []
    path, state = newest(tmp_path, said.append)
    assert (path, state["n"]) == (before, 1)
    assert len(said) == 1
    assert "damaged" in said[0]
    assert before.name in said[0]
    before.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"damaged.*not a checkpoint.*run the experiment again"):
        newest(tmp_path)


def test_none_is_an_error_and_what_a_kill_left_of_one_is_removed(tmp_path):
    (tmp_path / "checkpoint.000007.qck.part").write_bytes(b"half")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        newest(tmp_path)
    Checkpoints(tmp_path, Every())
    assert list(tmp_path.iterdir()) == []


def test_steps_seconds_and_never(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(checkpoints, "perf_counter", lambda: now[0])
    by_steps, by_seconds, never = (
        Checkpoints(tmp_path, every) for every in (Every(steps=5), Every(seconds=30), Every(never=True))
    )
    by_steps.begin_at(10)
    assert not by_steps.due(14)
    assert by_steps.due(15)
    assert not by_seconds.due(15)
    now[0] += 30
    assert by_seconds.due(15)
    assert not never.due(15)


def test_by_default_the_next_one_is_so_far_off_that_they_take_a_hundredth_of_the_time(tmp_path, monkeypatch):
    """A made-up clock: the run is held up for 3 s, and the disk takes 4 s."""
    now = [0.0]
    monkeypatch.setattr(checkpoints, "perf_counter", lambda: now[0])

    def slow(path, state):
        now[0] += 4
        return 1

    monkeypatch.setattr(checkpoints, "write", slow)
    writer = Checkpoints(tmp_path, Every())
    assert not writer.due(1)
    now[0] = 60.0
    assert writer.due(1)

    def take():
        now[0] += 3
        return {}

    writer.keep(1, take)
    writer.wait()
    assert now[0] == 67
    now[0] = 67 + 700 - 0.1
    assert not writer.due(2)
    now[0] = 67 + 700
    assert writer.due(2)


def test_the_one_that_an_interrupted_run_goes_on_from_is_the_last_that_the_disk_has_taken(
    tmp_path, monkeypatch, capfd
):
    writer = Checkpoints(tmp_path, Every(steps=5))
    writer.keep(10, lambda: {"n": 10})
    writer.wait()

    def full(path, state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write", full)
    writer.keep(20, lambda: {"n": 20})
    assert writer.over(tmp_path / "a.h5", INTERRUPTED)
    assert "goes on from the checkpoint of version 10\n" in capfd.readouterr().err
    assert not writer.due(24), "the next try is as many steps later all the same"
    resumed = Checkpoints(tmp_path, Every(steps=5))
    resumed.begin_at(10)
    resumed.keep(20, lambda: {"n": 20})
    assert resumed.over(tmp_path / "a.h5", INTERRUPTED)
    assert "goes on from the checkpoint of version 10\n" in capfd.readouterr().err


def test_a_disk_that_refuses_ends_no_run_and_is_said(tmp_path, capfd):
    writer = Checkpoints(tmp_path / "none", Every(steps=1))
    writer.keep(1, lambda: {"n": 1})
    assert not writer.wait()
    assert "the run goes on without this checkpoint" in capfd.readouterr().err
    assert writer.attributes()["checkpoints"]["failed"] == 1
