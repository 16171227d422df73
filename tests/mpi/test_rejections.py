"""Updates that are no numbers, or beyond a bound, on real ranks: counted with their client and not used."""

import re
from collections import Counter

import h5py
import numpy as np
import pytest

from qafel_mpi.algorithms.bounds import REJECTED
from qafel_mpi.codecs.qsgd import QSGD
from qafel_mpi.drivers.replay import run as replay
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.trace_schema import DROPPED, FAULT_NUMBERS, REFUSED, USED
from qafel_mpi.transport.frames import Sends, new_frame
from qafel_mpi.wire import Kind
from tests.mpi.conftest import same_everywhere

RUNS = {"wall": wall.run, "virtual": virtual.run}
POISONED = {derive(0, Stream.UPLINK, client, n) for client in (3, 4) for n in range(50)}


class Poisoned(QSGD):
    """Two clients of the run with seed 0 send NaN for a scale: memory that lies, say, after the encoding."""

    name, id = "poisoned", 201

    def encode(self, x, out, key):
        size = super().encode(x, out, key)
        if key in POISONED:
            out[:4] = 0xFF
        return size

    def encode_all(self, xs, outs, keys):
        return [self.encode(x, out, key) for x, out, key in zip(xs, outs, keys.tolist(), strict=True)]


def tables(path):
    with h5py.File(path) as file:
        found = {name: file[name][:] for name in ("updates", "steps", "faults")}
        return found | {"x": file["final/x"][:], "x_hat": file["final/x_hat"][:], "about": dict(file.attrs)}


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clock", RUNS)
def test_updates_that_are_no_numbers_are_rejected_and_counted_with_their_client(comm, folder, digits, clock):
    drawn = "client.draw=permutation" if clock == "wall" else "clock.concurrency=5"
    poisoned = (f"uplink.codec={__name__}:Poisoned", "task.clients=10", "stop.uploads=80", drawn)
    summary = RUNS[clock](digits(f"clock.kind={clock}", *poisoned), comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.x_digest)) == 1
    assert summary.outcome == "finished"
    found = tables(folder / "a.h5")
    updates = found["updates"][:80]  # on the wall clock others arrive after the last
    of_them = np.isin(updates["client"], [3, 4])
    assert of_them.sum() == summary.rejected_updates == found["about"]["rejected_updates"] > 2
    assert updates["use"].tolist() == np.where(of_them, REFUSED, USED).tolist()
    assert (updates["weight"] > 0).tolist() == (~of_them).tolist()
    assert summary.server_steps == (80 - of_them.sum()) // 4
    for vector in ("x", "x_hat"):
        assert np.isfinite(found[vector]).all()
    assert np.isfinite(found["steps"]["gap"][1:]).all()
    assert summary.dropped_messages == summary.clipped_updates == 0
    faults = found["faults"]
    assert set(faults["kind"]) == {FAULT_NUMBERS[REJECTED]}
    assert Counter(faults["client"].tolist()) == Counter(updates["client"][of_them].tolist())
    assert faults["detail"].tolist() == [b"poisoned: a scale is negative or not finite"] * len(faults)
    assert (faults["rank"] > 0).all()
    again = replay.run(folder / "a.h5", comm)
    assert (again.outcome, again.first_text, again.x_digest) == ("the same", "", summary.x_digest)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clock", RUNS)
def test_updates_beyond_a_bound_are_clipped_and_the_model_moves_no_further(comm, folder, digits, clock):
    """Each of the four updates of a step has at most norm 0.01, and so has their mean; momentum is off."""
    bounds = ("server.clip_norm=0.01", "server.momentum=0", "staleness.weight=constant")
    summary = RUNS[clock](digits(f"clock.kind={clock}", *bounds), comm, folder / "a.h5")
    found = tables(folder / "a.h5")
    assert summary.clipped_updates == (found["updates"]["weight"] == 1).sum() == len(found["faults"]) >= 40
    assert found["steps"]["step_norm"][1:].max() <= 0.01 * (1 + 1e-5)
    assert replay.run(folder / "a.h5", comm).outcome == "the same"


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("clock", RUNS)
@pytest.mark.parametrize("algorithm", ["qafel", "fedavg"])
def test_a_run_whose_updates_are_all_rejected_ends_and_says_why(comm, folder, digits, clock, algorithm):
    bounds = (f"algorithm={algorithm}", "server.reject_norm=1e-6", "stop.uploads=100000")
    summary = RUNS[clock](digits(f"clock.kind={clock}", *bounds), comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.outcome)) == 1
    assert summary.server_steps == 0
    assert not tables(folder / "a.h5")["updates"]["weight"].any()
    if (clock, algorithm) == ("wall", "fedavg"):
        assert summary.outcome == "failed: rank 0 refused every update of round 0"
        assert summary.rejected_updates >= 4
    else:
        assert replay.run(folder / "a.h5", comm).outcome == "the same"
        assert re.match(r"failed: the last 1\d\d updates were all rejected", summary.outcome)
        assert "above server.reject_norm = 1e-06" in summary.outcome
        assert summary.rejected_updates >= 100


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2)
def test_an_update_that_comes_twice_is_used_once_and_counted(comm, folder, digits, monkeypatch):
    post, again = Sends.post, []

    def posted(self, frame, rank):
        post(self, frame, rank)
        m = frame.message
        if comm.rank == 1 and m.kind == Kind.UPDATE and not again:
            copy = new_frame(m.payload_bytes)
            copy.buffer[:] = frame.buffer[: copy.buffer.size]
            copy.message = m
            again.append((m.client, m.sequence))
            post(self, copy, rank)

    monkeypatch.setattr(Sends, "post", posted)
    summary = wall.run(digits("stop.uploads=60"), comm, folder / "a.h5")
    monkeypatch.undo()
    assert len(same_everywhere(comm, summary.x_digest)) == 1
    found = tables(folder / "a.h5")
    used = found["updates"][found["updates"]["use"] == USED]
    jobs = list(zip(used["client"].tolist(), used["participation"].tolist(), strict=True))
    assert len(set(jobs)) == len(jobs) == 60
    assert (found["updates"]["use"] == DROPPED).sum() == found["about"]["dropped_messages"] == 1
    details = [row["detail"].decode() for row in found["faults"]]
    assert any("came before" in detail for detail in details)
    assert replay.run(folder / "a.h5", comm).outcome == "the same"
