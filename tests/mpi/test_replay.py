"""Wall runs on real ranks, done again from their traces."""

from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi.drivers.replay import run as replay
from qafel_mpi.drivers.replay.recorded import ReplayError
from qafel_mpi.drivers.wall import client as wall_client
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.drivers.wall import server as wall_server
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import DROPPED, LATE, USED
from qafel_mpi.transport.exchange import broadcast_text
from qafel_mpi.wire import Kind, WireError

RUNS = {
    "qafel, fan-out": ["algorithm=qafel", "client.pause_seconds=0.002"],
    "qafel, tree, thread, zstd": [
        "transport.broadcast=tree",
        "transport.progress=thread",
        "uplink.entropy=zstd",
    ],
    "fedasync, tree": ["algorithm=fedasync", "transport.broadcast=tree"],
    "naive, unicast": ["algorithm=naive", "downlink.delivery=unicast"],
    "ca2fl, ibcast": ["algorithm=ca2fl", "transport.broadcast=ibcast", "task.clients=ranks"],
    "fixed, zstd": [
        *("uplink.codec=fixed", "uplink.spacing=2e-3", "uplink.entropy=zstd", "staleness.weight=cutoff"),
    ],
    "fedavg": ["algorithm=fedavg", "server.optimizer=adam", "server.learning_rate=0.01"],
    "fadas, rate, affine": [
        *("algorithm=fadas", "staleness.weight=rate", "staleness.seconds=0.01"),
        *("uplink.codec=affine", "downlink.mode=hidden", "downlink.codec=randk", "downlink.fraction=0.2"),
    ],
}


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("name", RUNS)
def test_a_wall_run_is_done_again_bit_for_bit_on_any_number_of_ranks(comm, folder, digits, name):
    trace = folder / "a.h5"
    summary = wall.run(digits(*RUNS[name]), comm, trace)
    on_all = replay.run(trace, comm)
    alone = replay.run(trace, MPI.COMM_SELF) if comm.rank == comm.size - 1 else on_all
    for found in (on_all, alone):
        assert found.first_text == ""
        assert (found.outcome, found.x_same, found.x_hat_same) == ("the same", True, True)
        assert found.x_digest == summary.x_digest
        assert found.server_steps == summary.server_steps
        assert found.compared == found.uploads > 0
    comm.Barrier()


@pytest.mark.mpi(min_size=3)
def test_updates_say_what_became_of_them_and_in_which_place(comm, folder, digits, monkeypatch):
    check = wall_server.check

    def damaged(data, expected, *, rank):
        message = check(data, expected, rank=rank)
        if (message.kind, message.client, message.sequence) == (Kind.UPDATE, 0, 1):
            raise WireError("checksum", "damaged", rank=rank, sequence=1)
        return message

    monkeypatch.setattr(wall_server, "check", damaged)
    fedavg = ("algorithm=fedavg", "task.clients=ranks", f"server.buffer_size={comm.size - 1}")
    wall.run(digits(*fedavg, "stop.steps=6", "stop.seconds=20"), comm, folder / "a.h5")
    with open_trace(folder / "a.h5") as trace:
        updates = trace.table("updates")
    used, dropped = updates[updates["use"] == USED], updates[updates["use"] == DROPPED]
    assert len(dropped) == 1
    assert (dropped["rank"].item(), dropped["client"].item(), dropped["order"].item()) == (1, -1, -1)
    assert set(updates["use"].tolist()) <= {USED, LATE, DROPPED, 2}
    assert (used["rank"] == used["client"] + 1).all()
    assert (updates["digest"] != 0).all()
    for version in range(6):
        places = used["order"][used["version"] == version].tolist()
        assert places == list(range(comm.size - 2 if version == 1 else comm.size - 1))
    assert replay.run(folder / "a.h5", comm).outcome == "the same"


@pytest.mark.mpi(min_size=2)
def test_error_feedback_is_replayed_with_the_residual_of_an_update_that_was_dropped(
    comm, folder, digits, monkeypatch
):
    """Its row of /updates does not say whose it was: the sender's row of /messages does."""
    check = wall_server.check

    def damaged(data, expected, *, rank):
        message = check(data, expected, rank=rank)
        if message.kind == Kind.UPDATE and message.sequence == 1:
            raise WireError("checksum", "damaged", rank=rank, sequence=1)
        return message

    monkeypatch.setattr(wall_server, "check", damaged)
    wall.run(digits("algorithm=qafel-ef", "task.clients=ranks", "client.error_bits=8"), comm, folder / "a.h5")
    monkeypatch.undo()
    with open_trace(folder / "a.h5") as trace:
        updates = trace.table("updates")
    dropped = int((updates["use"] == DROPPED).sum())
    assert 0 < dropped < comm.size, "the second update of each client rank that came to it"
    found = replay.run(folder / "a.h5", comm)
    assert (found.outcome, found.first_text) == ("the same", "")


def flip(monkeypatch, comm, where, which):
    """Rank 1 computes one bit wrongly: in the payload that it has encoded, or in the update before."""
    flipped = []
    train, seal = wall_client.WallClient._train, wall_client.Frame.seal

    def trained(self, client, participation, delta, version):
        loss = train(self, client, participation, delta, version)
        if comm.rank == 1 and where == "update" and self.uploads == which:
            delta.numpy().view(np.int32)[7] ^= 1 << 24
            flipped.append((client, participation))
        return loss

    def sealed(self, kind, **fields):
        mine = comm.rank == 1 and kind == Kind.UPDATE and where == "payload"
        if mine and len(flipped) == 0 and fields["sequence"] >= 0:
            flipped.append((fields["client"], fields["sequence"]))
            self.payload[11] ^= 1 << 5
        return seal(self, kind, **fields)

    monkeypatch.setattr(wall_client.WallClient, "_train", trained)
    monkeypatch.setattr(wall_client.Frame, "seal", sealed)
    return flipped


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("where", ["update", "payload"])
def test_a_flipped_bit_is_found_with_the_rank_that_made_it(comm, folder, digits, monkeypatch, where):
    flipped = flip(monkeypatch, comm, where, which=2)
    wall.run(digits("task.clients=20", "uplink.codec=identity"), comm, folder / "a.h5")
    monkeypatch.undo()
    client, participation = map(int, broadcast_text(comm, _told(comm, flipped)).split())
    found = replay.run(folder / "a.h5", comm)
    assert found.outcome == "differs"
    first = found.first
    assert (first["rank"], first["client"], first["participation"]) == (1, client, participation)
    assert first["byte"]["arrived"] ^ first["byte"]["computed"] in [1 << bit for bit in range(8)]
    assert first["apart"]["elements"] == 1
    # With the bit as it arrived, all else is the run's.
    assert (found.differing, found.x_same, found.x_hat_same) == (1, True, True)


def _told(comm, flipped):
    """Rank 1's, on every rank."""
    texts = comm.gather(" ".join(map(str, flipped[0])) if flipped else "", 0)
    return texts[1] if comm.rank == 0 else ""


@pytest.mark.mpi(min_size=2)
def test_a_replay_stops_where_it_is_told_and_writes_a_trace_of_its_own(comm, folder, digits):
    trace, again = folder / "a.h5", folder / "again.h5"
    wall.run(digits(), comm, trace)
    stopped = replay.run(trace, comm, to=3)
    assert (stopped.outcome, stopped.server_steps, stopped.uploads) == ("the same so far", 3, 12)
    whole = replay.run(trace, comm, again)
    assert whole.outcome == "the same"
    with open_trace(trace) as then, open_trace(again) as now:
        assert then.table("updates").tobytes() == now.table("updates").tobytes()
        a, b = then.table("steps"), now.table("steps")
        for column in a.dtype.names:
            np.testing.assert_array_equal(a[column], b[column], err_msg=column)
        assert then.digest("x") == now.digest("x")
        assert "replay_of" in now.attributes
    assert replay.run(again, comm).outcome == "the same"


@pytest.mark.mpi(min_size=2)
def test_what_can_not_be_replayed_is_refused_on_every_rank_alike(comm, folder, digits):
    with pytest.raises(ReplayError, match="no such file"):
        replay.run(Path(folder / "none.h5"), comm)
    wall.run(digits("trace.digests=false"), comm, folder / "a.h5")
    with pytest.raises(ReplayError, match=r"trace\.digests = false.*\n--anyway tries"):
        replay.run(folder / "a.h5", comm)
    found = replay.run(folder / "a.h5", comm, anyway=True)
    assert (found.outcome, found.compared, found.x_same) == ("the same", 0, True)
