"""Runs that go on from a checkpoint, on real ranks.

A kill is stood for by what it leaves: a copy of the run's folder, made at some moment while the run goes on to its
end, which then is the run that was never stopped.
"""

import shutil
import threading
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from time import sleep

import h5py
import numpy as np
import pytest

from qafel_mpi.config import load
from qafel_mpi.drivers.replay import run as replay
from qafel_mpi.drivers.survival.checkpoints import numbered
from qafel_mpi.drivers.survival.every import Every
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.trace.merge import shards_of
from qafel_mpi.trace_schema import TABLES
from qafel_mpi.transport.exchange import broadcast_text
from tests.mpi.test_virtual import tables

VIRTUAL = ("clock.kind=virtual", "stop.uploads=60", "trace.flush_seconds=0.01")
SETTINGS = {
    "qafel": ["clock.concurrency=10", "clock.dropout=0.2", "server.momentum=0.9"],
    "naive unicast": [
        "clock.start=always",
        "clock.concurrency=10",
        "algorithm=naive",
        "downlink.delivery=unicast",
        *("server.quorum=2", "server.grace_seconds=0.1"),
    ],
    "fixed": [
        *("clock.concurrency=10", "algorithm=qafel-ef", "staleness.weight=constant"),
        *("uplink.codec=fixed", "uplink.bits=8", "uplink.spacing=1e-4"),
    ],
    "fedasync": ["clock.concurrency=10", "algorithm=fedasync", "server.buffer_size=1"],
    "fedavg": ["algorithm=fedavg", "clock.concurrency=8"],
    "qafel-ef": ["clock.concurrency=10", "algorithm=qafel-ef"],
    "ca2fl": ["clock.concurrency=10", "algorithm=ca2fl"],
    "quafl": ["algorithm=quafl", "server.buffer_size=4"],
    "adam": ["clock.staleness.kind=uniform", "clock.staleness.max=3", "server.optimizer=adam"],
}


def copy(source, target):
    """What is in the folder now, while ranks write there; checkpoints first, which tell of what lies in the rest."""
    target.mkdir()
    for path in sorted(
        source.iterdir(), key=lambda path: (not path.name.startswith("checkpoint"), path.name)
    ):
        if not path.name.startswith("claim"):
            with suppress(FileNotFoundError):  # it was one for a moment
                shutil.copy(path, target)


def pace():
    """For an `interrupted` to call: the run goes on beside a checkpoint that is written, but for 10 looks at most. It
    would be over before a slow disk has the second one."""
    looks = Counter()

    def keep():
        for thread in threading.enumerate():
            if thread.name == "checkpoint":
                looks[thread] += 1
                if looks[thread] > 10:
                    thread.join()

    return keep


def copied(comm, folder, at):
    """An `interrupted` for rank 0 that never interrupts: it copies the folder once so many checkpoints are there."""
    done, keep_pace = [], pace()

    def look():
        if comm.rank or done:
            return False
        keep_pace()
        sleep(0.005)  # meanwhile the ranks write rows, and rank 0 a checkpoint
        if next(numbered(folder / "a.shards"), (0, None))[0] >= at:
            copy(folder / "a.shards", folder / "b.shards")
            if any(numbered(folder / "b.shards")):
                done.append(at)
            else:  # the run has removed it meanwhile, for newer ones
                shutil.rmtree(folder / "b.shards")
        return False

    return look


def checkpoint(comm, folder):
    """Its path on rank 0; the others have no need of it."""
    found = [str(path) for _, path in numbered(shards_of(folder / "b.h5"))] if comm.rank == 0 else []
    path = broadcast_text(comm, "".join(found[:1]))
    assert path, "the run ended before its folder was copied"
    return folder / path


@pytest.mark.mpi
@pytest.mark.parametrize("name", SETTINGS)
def test_a_virtual_run_goes_on_bit_for_bit(comm, folder, digits, name):
    experiment = digits(*VIRTUAL, *SETTINGS[name])
    virtual.run(
        experiment, comm, folder / "a.h5", every=Every(steps=2), interrupted=copied(comm, folder, at=2)
    )
    summary = virtual.run(experiment, comm, folder / "b.h5", resume=checkpoint(comm, folder))
    assert tables(folder / "a.h5") == tables(folder / "b.h5")
    with h5py.File(folder / "a.h5") as a, h5py.File(folder / "b.h5") as b:
        for attribute in (
            "uploads",
            "accuracy",
            "loss",
            "payload_bytes_up",
            "payload_bytes_down",
            "down_links",
        ):
            assert a.attrs[attribute] == b.attrs[attribute], attribute
        rows = b["messages"][:]
        ends = [np.sort(rows[rows["end"] == end][["src", "dst", "kind", "sequence"]]) for end in (0, 1)]
        assert np.array_equal(*ends), "each message is there at both its ends, once"
        assert b["ranks"]["rows_written"].sum() == sum(len(b[table]) for table in TABLES if table != "ranks")
    assert summary.outcome == "finished"
    assert summary.uploads == 60
    if not experiment.server.pull:  # of which there are no replays
        assert replay.run(folder / "b.h5", comm).outcome == "the same"


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", ["qafel", "qafel-ef"])
def test_a_virtual_run_goes_on_with_other_ranks(comm, folder, digits, algorithm):
    """From all ranks to rank 0 alone."""
    experiment = digits(*VIRTUAL, "clock.concurrency=10", f"algorithm={algorithm}")
    virtual.run(
        experiment, comm, folder / "a.h5", every=Every(steps=2), interrupted=copied(comm, folder, at=3)
    )
    path = checkpoint(comm, folder)
    if comm.rank == 0:
        virtual.run(experiment, None, folder / "b.h5", resume=path)
        assert tables(folder / "a.h5") == tables(folder / "b.h5")
        with h5py.File(folder / "b.h5") as file:
            assert len(file["ranks"]) == comm.size
    comm.Barrier()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["algorithm=fedavg", "server.buffer_size=6"],
        ["algorithm=naive", "downlink.delivery=unicast", "transport.progress=thread"],
        ["algorithm=ca2fl"],
        ["algorithm=qafel-ef"],
        ["algorithm=qafel-ef", "client.error_bits=8", "transport.progress=thread"],
        ["algorithm=fedpaq", "server.buffer_size=6", "client.error_feedback=true"],
        ["algorithm=quafl", "server.buffer_size=3"],
    ],
    ids=str,
)
def test_a_wall_run_goes_on_from_a_signal_and_ends_with_one_hidden_state(comm, folder, digits, settings):
    """That all ranks hold the same x̂ is checked by the run itself, which fails where they do not."""
    experiment = digits("stop.uploads=1500", "stop.accuracy=1.0", "transport.clock_seconds=0.05", *settings)
    out, keep_pace = folder / "a.h5", pace()

    def interrupted():
        keep_pace()
        return next(numbered(shards_of(out)), (0, None))[0] >= 2

    first = wall.run(
        experiment,
        comm,
        out,
        every=Every(steps=3),
        interrupted=interrupted,
    )
    assert first.outcome == "interrupted"
    path = str(next(numbered(shards_of(out)))[1]) if comm.rank == 0 else ""
    last = wall.run(experiment, comm, out, resume=folder / broadcast_text(comm, path))
    assert last.outcome == "finished"
    assert last.uploads >= 300
    if not experiment.server.pull:  # of which there are no replays
        assert replay.run(out, comm).first_text == ""
    with h5py.File(out) as file:
        updates, steps, messages = file["updates"][:], file["steps"][:], file["messages"][:]
        assert np.array_equal(steps["version"], np.arange(len(steps)))
        assert np.all(np.diff(steps["time_s"]) > 0)
        assert len(updates) == last.uploads
        jobs = list(zip(updates["client"].tolist(), updates["participation"].tolist(), strict=True))
        assert len(set(jobs)) == len(jobs), "no update is there twice"
        down = messages[(messages["end"] == 0) & (messages["src"] == 0)]
        assert down["payload_bytes"].sum() == file.attrs["down_links"]
        got = messages[(messages["end"] == 1) & (messages["kind"] == 3) & (messages["dst"] == 0)]
        assert len(got) >= 300
        at = got["t_complete"]
        assert at.min() >= 0
        assert at.max() <= steps["time_s"][-1] + 60
        clock = file["clock"][:]
        for rank in range(comm.size):
            own = clock[clock["rank"] == rank]
            assert all(a < b for a, b in pairwise(own["local_s"])), "a rank's clock goes on where it stood"
            assert np.ptp(own["offset_s"]) < 1.0


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("algorithm", ["qafel", "qafel-ef"])
def test_a_wall_run_that_was_killed_goes_on_with_fewer_ranks(comm, folder, digits, algorithm):
    """With error feedback the replay needs every client's residual, wherever it lives now."""
    experiment = digits(
        *("stop.uploads=600", "stop.accuracy=1.0", "trace.flush_seconds=0.01", "trace.encoding_error=true"),
        f"algorithm={algorithm}",
    )
    wall.run(experiment, comm, folder / "a.h5", every=Every(steps=2), interrupted=copied(comm, folder, at=4))
    path = checkpoint(comm, folder)
    fewer = comm.Split(0 if comm.rank < comm.size - 1 else 1, comm.rank)
    if comm.rank < comm.size - 1:
        summary = wall.run(experiment, fewer, folder / "b.h5", resume=path)
        assert summary.outcome == "finished"
        assert summary.uploads >= 600
        assert replay.run(folder / "b.h5", fewer).first_text == ""
        with h5py.File(folder / "b.h5") as file:
            messages, encodings = file["messages"][:], file["encodings"][:]
        sent = messages[(messages["end"] == 0) & (messages["kind"] == 3)]
        for rows, name in ((sent, "sequence"), (encodings, "participation")):
            jobs = list(zip(rows["client"].tolist(), rows[name].tolist(), strict=True))
            assert len(set(jobs)) == len(jobs), f"{name}: no update is there twice"
    fewer.Free()
    comm.Barrier()


@pytest.mark.mpi(min_size=3)  # one of the clients' ranks is left, and one is not
@pytest.mark.parametrize("clock", [wall, virtual], ids=["wall", "virtual"])
def test_a_run_that_a_signal_has_ended_goes_on_with_fewer_ranks_and_misses_none_of_the_others_rows(
    comm, folder, digits, clock
):
    settings = VIRTUAL if clock is virtual else ("stop.uploads=1500", "stop.accuracy=1.0")
    out, looks = folder / "a.h5", Counter()

    def interrupted():
        looks[comm.rank] += 1
        return next(numbered(shards_of(out)), (0, None))[0] >= 2 and looks[comm.rank] > 10

    first = clock.run(digits(*settings), comm, out, every=Every(steps=1), interrupted=interrupted)
    assert first.outcome == "interrupted"
    path = str(next(numbered(shards_of(out)))[1]) if comm.rank == 0 else ""
    path = folder / broadcast_text(comm, path)
    fewer = comm.Split(0 if comm.rank < comm.size - 1 else 1, comm.rank)
    if comm.rank < comm.size - 1:
        assert clock.run(digits(*settings), fewer, out, resume=path).outcome == "finished"
        with h5py.File(out) as file:
            rows = sum(len(file[table]) for table in TABLES if table != "ranks")
            assert file["ranks"]["rows_written"].sum() == rows
        if comm.rank == 0:
            assert not any(numbered(shards_of(out)))
    fewer.Free()
    comm.Barrier()


@pytest.mark.mpi
def test_a_checkpoint_of_other_data_or_another_model_is_refused_on_every_rank(comm, folder, digits):
    from qafel_mpi.tasks.errors import DataError

    experiment = digits(*VIRTUAL, "clock.concurrency=10")
    virtual.run(
        experiment, comm, folder / "a.h5", every=Every(steps=2), interrupted=copied(comm, folder, at=2)
    )
    other = load("digits", [*VIRTUAL, "clock.concurrency=10", "task.clients=20", "uplink.bits=2"])
    with pytest.raises(DataError, match="uplink changed since its checkpoint"):
        virtual.run(other, comm, folder / "b.h5", resume=checkpoint(comm, folder))
