"""Runs on the virtual clock, done again in one process."""

import itertools
import json
from contextlib import contextmanager

import h5py
import numpy as np
import pytest
import torch

from qafel_mpi.algorithms import server
from qafel_mpi.codecs import bucketed
from qafel_mpi.config import load
from qafel_mpi.drivers.replay.recorded import ReplayError
from qafel_mpi.drivers.replay.run import opened, run
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.virtual import workers
from qafel_mpi.kernels import memory
from qafel_mpi.tasks import flat
from qafel_mpi.trace.seal import write_seal
from qafel_mpi.trace_schema import REFUSED

SMALL = ("stop.uploads=60", "server.buffer_size=4", "task.clients=20", "evaluation.every_steps=1000")
LOGISTIC = (
    "task.dataset=synthetic",
    "task.shape=[12]",
    "task.classes=2",
    "task.examples=400",
    "clock.concurrency=10",
)
RUNS = {
    "batches": ["client.together=8", "clock.concurrency=16", "clock.start=always"],
    "dropouts, flushes": ["clock.dropout=0.2", "clock.flush_epoch=true", "clock.concurrency=12"],
    "unicast": ["algorithm=naive", "downlink.delivery=unicast"],
    "rounds": ["algorithm=fedavg", "server.buffer_size=5"],
    "decoupled": [
        "algorithm=decoupled",
        "server.quorum=2",
        "server.grace_seconds=0.05",
        "clock.concurrency=16",
    ],
    "error feedback, refused": ["algorithm=qafel-ef", "server.reject_norm=0.13", "clock.concurrency=8"],
    "fadas, clipped": ["algorithm=fadas", "server.clip_norm=0.12", "clock.concurrency=8"],
    "fedasync": ["algorithm=fedasync", "stop.uploads=20"],
}


def virtual_run(folder, name, *overrides):
    overrides = (*SMALL, "clock.kind=virtual", *overrides)
    return virtual.run(load(name, overrides), None, folder / "a.h5")


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    virtual_run(folder, "mushrooms-qsgd", *LOGISTIC)
    return folder / "a.h5"


@pytest.mark.parametrize("name", RUNS)
def test_a_virtual_run_is_done_again_with_its_own_batches(tmp_path, name):
    summary = virtual_run(tmp_path, "digits", *RUNS[name])
    found = run(tmp_path / "a.h5")
    assert (found.outcome, found.first_text) == ("the same", "")
    assert found.x_digest == summary.x_digest
    assert (found.uploads, found.server_steps) == (summary.uploads, summary.server_steps)


@contextmanager
def hostile_memory():
    """Fresh memory is full of numbers that nobody has written, and vectors that live long begin at an odd element."""
    empty, torchs, torchs_like, begins = np.empty, torch.empty, torch.empty_like, itertools.count(1)

    def filled(array):
        array[...] = True if array.dtype.kind == "b" else np.nan if array.dtype.kind == "f" else 77
        return array

    def tensor(made):
        filled(made.detach().numpy())
        return made

    def vector(elements, dtype, device="cpu"):
        begin = 1 + next(begins) % 15
        return tensor(torchs(elements + begin, dtype=dtype))[begin:]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", lambda *given, **options: filled(empty(*given, **options)))
        patch.setattr(torch, "empty", lambda *given, **options: tensor(torchs(*given, **options)))
        patch.setattr(torch, "empty_like", lambda *given, **options: tensor(torchs_like(*given, **options)))
        for module in (memory, flat, workers, server):
            patch.setattr(module, "vector", vector)
        yield


IN_ANY_MEMORY = {
    "digits": ("digits",),
    "digits, one at a time": ("digits", "client.together=1"),
    "logistic": ("mushrooms-qsgd", *LOGISTIC),
    "cnn": (
        "digits",
        "task.dataset=synthetic",
        "task.model=cnn",
        "task.shape=[3, 32, 32]",
        "task.classes=2",
        "task.examples=200",
        "stop.uploads=12",
    ),
}


@pytest.mark.parametrize("name", IN_ANY_MEMORY)
def test_bits_depend_neither_on_what_lay_in_fresh_memory_nor_on_where_vectors_begin(tmp_path, name):
    virtual_run(tmp_path, *IN_ANY_MEMORY[name])
    with hostile_memory():
        found = run(tmp_path / "a.h5")
    assert (found.outcome, found.first_text, found.slips) == ("the same", "", 0)


@pytest.mark.parametrize("bits", [2, 4])
def test_digests_that_the_server_took_while_it_decoded_are_those_of_the_payloads(tmp_path, monkeypatch, bits):
    monkeypatch.setattr(bucketed, "DIGESTED_BYTES", 1)
    uplink = f"uplink.bits={bits}"
    virtual_run(
        tmp_path, "digits", uplink, "server.reject_norm=0.13", "clock.concurrency=8", "task.hidden=160"
    )
    found = run(tmp_path / "a.h5")
    assert (found.outcome, found.first_text) == ("the same", "")
    assert found.compared == found.uploads


def test_a_run_of_a_server_that_asks_is_refused(tmp_path):
    virtual_run(tmp_path, "digits", "algorithm=quafl", "stop.uploads=8")
    with pytest.raises(ReplayError, match=r"server\.pull"):
        run(tmp_path / "a.h5")


def test_it_can_be_gone_through_upload_by_upload(trace):
    with opened(trace, bind=False) as here:
        replay = here.replay
        assert replay.run(upload=7)
        assert (replay.at, replay.version, replay.server.filled) == (7, 1, 3)
        upload = replay.next
        assert upload.number == 7
        assert upload.same
        before = replay.buffer.clone()
        assert replay.step().number == 7  # the fourth of the buffer: the server steps
        assert (replay.version, replay.server.filled) == (2, 0)
        assert before.abs().sum() > 0
        assert replay.buffer.abs().sum() == 0
        assert replay.decoded(upload).shape == replay.x.shape
        while replay.step() is not None:
            pass
        assert replay.next is None
        assert replay.x.numpy().tobytes() == replay.recorded.x.tobytes()


def edit(trace, folder, change):
    """A copy of the trace, with a change."""
    copy = folder / "edited.h5"
    copy.write_bytes(trace.read_bytes())
    with h5py.File(copy, "r+") as file:
        change(file)
    write_seal(copy)
    return copy


def another_digest(file):
    row = file["updates"][13]
    row["digest"] += 1
    file["updates"][13] = row


def test_an_upload_that_differs_stops_it_and_those_beside_it_are_looked_at(trace, tmp_path):
    found = run(edit(trace, tmp_path, another_digest))
    assert (found.outcome, found.first["upload"], found.uploads) == ("differs", 13, 13)
    assert "upload 13 differs: rank 0" in found.first_text
    assert "more than one element differs; its training loss is the same" in found.first_text
    assert "this machine computes the same each time, so the rank computed otherwise" in found.first_text
    assert found.slips == 0
    assert sum(found.others_same.values()) > 0
    assert sum(found.others_differ.values()) == 1
    went_on = run(tmp_path / "edited.h5", anyway=True)
    assert (went_on.outcome, went_on.differing, went_on.x_same) == ("differs", 1, True)


def computing_wrongly(monkeypatch, job, times):
    """This process gets two bytes of an update wrong, so often, and each time others."""
    train, left = workers.Trainer.train, [times]

    def trained(self, jobs, *arguments):
        results = train(self, jobs, *arguments)
        if job in jobs and left[0]:
            results[list(jobs).index(job)].payload[[2, 9]] ^= left[0]
            left[0] -= 1
        return results

    monkeypatch.setattr(workers.Trainer, "train", trained)


def used(trace, number):
    with h5py.File(trace) as file:
        row = file["updates"][number]
    return int(row["client"]), int(row["participation"])


def test_what_this_machine_computes_wrongly_once_is_trained_again_and_said(trace, monkeypatch):
    with monkeypatch.context() as once:
        computing_wrongly(once, used(trace, 13), times=1)
        found = run(trace)
    assert (found.outcome, found.x_same, found.differing, found.slips) == ("the same", True, 0, 1)
    assert "upload 13 differs" in found.slip_text
    assert "alone: the recorded bits" in found.slip_text
    assert "this machine computed it wrongly at first" in found.slip_text
    assert "of the update's elements differ" in found.slip_text
    computing_wrongly(monkeypatch, used(trace, 13), times=99)
    found = run(trace)
    assert (found.outcome, found.first["upload"], found.slips) == ("differs", 13, 0)
    assert "alone: other bits" in found.first_text
    assert "this machine does not compute the same each time" in found.first_text
    json.loads(found.to_json())


def attribute(name, change):
    def edited(file):
        value = json.loads(file.attrs[name])
        change(value)
        file.attrs[name] = json.dumps(value)

    return edited


def resumed(change):
    """A run that went on from a checkpoint, on a machine of which something was otherwise before."""

    def edited(file):
        before = json.loads(file.attrs["arithmetic"])
        change(before[-1])
        file.attrs["resumed"] = json.dumps([{"updates": 4, "arithmetic": before, "package": "0.1 a"}])

    return edited


OTHERS = {
    "before the run was resumed, cpu: another in the run": resumed(lambda v: v.update(cpu="another")),
    "before the run was resumed, threads: 7, and 1 after": resumed(lambda v: v.update(threads=7)),
    "before the run was resumed, package: 0.1 a, .* here; install": resumed(lambda v: None),
    "package: .* in the run, .* here; install": attribute(
        "fingerprints", lambda v: v.update(package="0.1 a")
    ),
    "data: .* --data-dir": attribute("fingerprints", lambda v: v.update(data="0")),
    "cpu: another in the run": attribute("arithmetic", lambda v: v[0].update(cpu="another")),
    "ONEDNN_MAX_CPU_ISA: AVX2 in the run, not set here; leave --instructions out": attribute(
        "arithmetic", lambda v: v[0]["environment"].update(ONEDNN_MAX_CPU_ISA="AVX2")
    ),
    "torch: 1.0 in the run": attribute("arithmetic", lambda v: v[0]["versions"].update(torch="1.0")),
    "schema version 1, which has no digests": lambda file: (
        file.attrs.__setitem__("schema_version", 1),
        file.attrs.__delitem__("digest"),
    ),
    "its versions go back": lambda file: file["updates"].__setitem__(
        slice(None), file["updates"][:][::-1].copy()
    ),
}


@pytest.mark.parametrize("says", OTHERS)
def test_what_differs_is_said_before_anything_is_trained(trace, tmp_path, says, monkeypatch):
    monkeypatch.setattr("qafel_mpi.drivers.virtual.workers.Trainer.train", None)
    with pytest.raises(ReplayError, match=says):
        run(edit(trace, tmp_path, OTHERS[says]))


def test_a_changed_order_of_a_virtual_run_is_not_taken_for_the_schedules(trace, tmp_path):
    def swapped(file):
        rows = file["updates"][:]
        rows[[4, 5]] = rows[[5, 4]]
        file["updates"][:] = rows

    with pytest.raises(ReplayError, match=r"upload 4 is of client .* this program's schedule has client"):
        run(edit(trace, tmp_path, swapped))


def test_a_refused_upload_that_differs_is_named_and_the_replay_goes_on_without_it(tmp_path):
    refused = ("server.reject_norm=0.13", "clock.concurrency=8", "trace.encoding_error=true")
    virtual_run(tmp_path, "digits", *refused)
    number = None

    def another(file):
        nonlocal number
        number = int((file["updates"]["use"] == REFUSED).argmax())
        row = file["updates"][number]
        row["digest"] ^= 1 << 63
        file["updates"][number] = row

    found = run(edit(tmp_path / "a.h5", tmp_path, another))
    assert number > 0
    assert (found.outcome, found.first["upload"], found.differing) == ("differs", number, 1)
    assert (found.x_same, found.x_hat_same, found.whole) == (True, True, True)
    # The norm that the run recorded is the one that is computed here, up to what quantization loses.
    assert found.first["norm"] == pytest.approx(found.first["computed_norm"], abs=found.first["error"])
    assert found.first["apart_at_least"] == 0.0
