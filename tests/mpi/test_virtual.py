"""Virtual runs: the same bits on 1, 2, 3 and 5 ranks."""

import gc

import h5py
import pytest
from mpi4py import MPI

from qafel_mpi.drivers.replay import run as replay
from qafel_mpi.drivers.virtual import remote
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.virtual.settling import SettlingWorkers
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.transport.frames import Frame
from qafel_mpi.transport.inbox import Inbox
from qafel_mpi.wire import Kind

SETTINGS = {
    "qafel": [],
    "fedbuff unicast": ["algorithm=fedbuff", "downlink.delivery=unicast"],
    "naive unicast": ["algorithm=naive", "downlink.delivery=unicast"],
    "fedasync": ["algorithm=fedasync", "server.buffer_size=1"],
    "fedasync unicast, 4 bits": [
        *("algorithm=fedasync", "server.buffer_size=1", "downlink.delivery=unicast"),
        *("downlink.mode=direct", "downlink.codec=qsgd", "downlink.bits=4"),
    ],
    "fadas, cutoff": ["algorithm=fadas", "server.learning_rate=0.01", "staleness.weight=cutoff"],
    "fedbuff-nvflare": ["algorithm=fedbuff-nvflare"],
    "fedbuff-appfl": ["algorithm=fedbuff-appfl", "server.learning_rate=10"],
    "qafel, cosine-exp": ["algorithm=qafel", "staleness.weight=cosine-exp"],
    "decoupled": ["algorithm=decoupled", "server.quorum=2", "server.grace_seconds=0.1"],
    "quafl": ["algorithm=quafl", "client.local_steps=4", "clock.dropout=0.1"],
    "ca2fl": ["algorithm=ca2fl", "uplink.codec=qsgd"],
    "fedpaq": ["algorithm=fedpaq"],
    "dropout, poisson, rate": ["clock.dropout=0.2", "clock.start=poisson", "staleness.weight=rate"],
    "staleness": ["clock.staleness.kind=uniform", "clock.staleness.max=3"],
    "always": ["clock.start=always"],
    "checksum of payloads": ["transport.checksum=full"],
    "eden, shared rotation": [
        *("uplink.codec=eden", "uplink.bits=2", "uplink.rotation=shared"),
        *("downlink.codec=eden", "downlink.bits=1", "downlink.scale=least-squares"),
        'uplink.rules=[{max_rank=1, codec="identity"}]',
    ],
    "fixed": [
        *("uplink.codec=fixed", "uplink.spacing=2e-3", "staleness.weight=constant"),
        'uplink.rules=[{max_rank=1, codec="identity"}]',
    ],
    "qafel-ef, rules": [
        *("algorithm=qafel-ef", "client.error_decay=0.9", "client.error_bits=8", "clock.start=always"),
        'uplink.rules=[{match="bias", codec="identity"}]',
        'downlink.rules=[{max_elements=100, codec="qsgd", bits=8}]',
    ],
    "zstd": ["uplink.entropy=zstd", "downlink.entropy=zstd"],
}


def tables(path):
    with h5py.File(path) as file:
        return {
            "updates": file["updates"][:].tobytes(),
            "steps": file["steps"][:].tobytes(),
            "x": file["final"].attrs["x_digest"],
            "x_hat": file["final"].attrs["x_hat_digest"],
        }


@pytest.mark.mpi
@pytest.mark.parametrize("name", SETTINGS)
def test_results_are_bit_identical_for_any_number_of_ranks(comm, folder, digits, name):
    """Rank 0's own run in one process is the reference; /updates and /steps are compared byte by byte."""
    schedule = [] if name in ("staleness", "quafl") else ["clock.concurrency=10"]
    experiment = digits("clock.kind=virtual", *schedule, *SETTINGS[name])
    summary = virtual.run(experiment, comm, folder / "many.h5")
    if comm.rank == 0:
        virtual.run(experiment, MPI.COMM_SELF, folder / "one.h5")
    comm.Barrier()
    assert tables(folder / "many.h5") == tables(folder / "one.h5")
    assert summary.uploads == 40


@pytest.mark.mpi(min_size=2)
def test_batches_that_are_trained_together_do_not_depend_on_ranks(comm, folder, logistic):
    virtual.run(logistic, comm, folder / "many.h5")
    if comm.rank == 0:
        virtual.run(logistic, MPI.COMM_SELF, folder / "one.h5")
    comm.Barrier()
    assert tables(folder / "many.h5") == tables(folder / "one.h5")


@pytest.mark.mpi(min_size=2)
def test_messages_between_ranks_add_up(comm, folder, digits):
    virtual.run(digits("clock.kind=virtual", "clock.concurrency=10"), comm, folder / "a.h5")
    with h5py.File(folder / "a.h5") as file:
        messages, ranks = file["messages"][:], file["ranks"][:]
    sent, received = messages[messages["end"] == 0], messages[messages["end"] == 1]
    assert sorted(sent["wire_bytes"]) == sorted(received["wire_bytes"])
    assert ranks["sent"].sum() == len(sent) == len(received) == ranks["received"].sum()
    assert (received["kind"] == Kind.UPDATE).sum() >= 40
    assert len({d.decode() for d in ranks["x_hat_digest"]}) == 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", ["fedbuff", "qafel"])
def test_evaluations_by_workers_use_the_same_frames_again(comm, folder, digits, monkeypatch, algorithm):
    """With fedbuff a broadcast is as large as the model that is evaluated."""
    alive: list[int] = []
    evaluate = remote.RemoteWorkers.evaluate

    def counted(workers, x):
        result = evaluate(workers, x)
        alive.append(sum(type(thing) is Frame for thing in gc.get_objects()))
        return result

    monkeypatch.setattr(remote.RemoteWorkers, "evaluate", counted)
    # As where there are GPUs: then all evaluation is the workers'.
    monkeypatch.setattr(
        virtual, "SettlingWorkers", lambda *a, gpus, poll: SettlingWorkers(*a, gpus=True, poll=poll)
    )
    settings = (
        "clock.kind=virtual",
        "evaluation.every_steps=1",
        f"algorithm={algorithm}",
        "stop.uploads=80",
    )
    virtual.run(digits(*settings, "clock.concurrency=2", "stop.accuracy=1.0"), comm, folder / "a.h5")
    counts = comm.bcast(alive)
    assert len(counts) > 20
    assert counts[-1] <= counts[5] + 5, counts


class OneByOne(Inbox):
    """One message at each look: what a rank 0 finds that is behind comes later."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.held = []

    def poll(self):
        self.held += super().poll()
        return [self.held.pop(0)] if self.held else []


@pytest.mark.mpi(min_size=2)
def test_updates_that_a_round_did_not_wait_for_are_received_and_not_kept(comm, folder, digits, monkeypatch):
    """Each round has four of ten; results of the others are there already, or under way."""
    step, kept, under_way = virtual.Simulation._step, [], []

    def stepped(simulation):
        step(simulation)
        under_way.append(sum(simulation.workers.outstanding.values()))
        results, _ = simulation.workers.settle()  # all that was handed out has come
        kept.append((len(simulation.start_version), len(results)))

    monkeypatch.setattr(virtual.Simulation, "_step", stepped)
    monkeypatch.setattr(remote, "Inbox", OneByOne)
    rounds = ("clock.kind=virtual", "clock.concurrency=10", "algorithm=fedavg")
    summary = virtual.run(digits(*rounds), comm, folder / "a.h5")
    assert summary.server_steps == 10
    assert comm.bcast(kept) == [(0, 0)] * 10
    assert any(comm.bcast(under_way))
    with h5py.File(folder / "a.h5") as file:
        messages = file["messages"][:]
    received = (messages["end"] == 1) & (messages["kind"] == Kind.UPDATE)
    assert received.sum() == 100
    assert replay.run(folder / "a.h5", comm).outcome == "the same"


def check_encodings(path):
    """Each upload once, and a ratio that Definition 2.1 can take."""
    with h5py.File(path) as file:
        rows, updates = file["encodings"][:], file["updates"][:]
    recorded = {(int(r["client"]), int(r["participation"])) for r in rows}
    assert {(int(r["client"]), int(r["participation"])) for r in updates} <= recorded
    assert len(recorded) == len(rows)
    lost = (rows["quantization_error"] / rows["norm"]) ** 2
    assert lost.min() > 0
    assert lost.max() < 1


@pytest.mark.mpi
def test_the_error_of_each_upload_is_recorded_on_request_and_changes_nothing(comm, folder, digits):
    settings = ["clock.kind=virtual", "clock.concurrency=10"]
    virtual.run(digits(*settings, "trace.encoding_error=true"), comm, folder / "a.h5")
    virtual.run(digits(*settings), comm, folder / "b.h5")
    assert tables(folder / "a.h5") == tables(folder / "b.h5")
    check_encodings(folder / "a.h5")
    with h5py.File(folder / "b.h5") as file:
        assert len(file["encodings"]) == 0


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("progress", ["poll", "thread"])
def test_clients_on_the_wall_clock_record_it_too(comm, folder, digits, progress):
    wall.run(digits("trace.encoding_error=true", f"transport.progress={progress}"), comm, folder / "a.h5")
    check_encodings(folder / "a.h5")
