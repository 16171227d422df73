"""The loop of the virtual clock, in one process."""

import numpy as np
import pytest
from qafel_analysis.read.rows import Target, row

from qafel_mpi.algorithms.bounds import CLIPPED, REJECTED
from qafel_mpi.config import load
from qafel_mpi.drivers.replay import run as replay
from qafel_mpi.drivers.survival.checkpoints import numbered
from qafel_mpi.drivers.survival.rejections import Rejections
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.trace.merge import shards_of
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import FAULT_NAMES
from tests.unit.drivers.survival.test_resume import result

OF_FOUR = ("server.buffer_size=4", "stop.uploads=20", "evaluation.every_steps=1000")


def test_a_quorum_steps_at_the_end_of_its_grace_window_or_with_all(tmp_path):
    """K_min = 3, K = 6: a step is made with 6 uploads at the last one's time, or 0.08 s after the third."""
    settings = [
        "server.buffer_size=6",
        "server.quorum=3",
        "server.grace_seconds=0.08",
        "clock.concurrency=16",
    ]
    small = ["task.clients=20", "stop.uploads=120", "evaluation.every_steps=1000", "clock.kind=virtual"]
    virtual.run(load("digits", [*small, "algorithm=decoupled", *settings]), None, tmp_path / "a.h5")
    with open_trace(tmp_path / "a.h5") as trace:
        updates, steps = trace.table("updates"), trace.table("steps")
    sizes = []
    for step in steps[1:]:
        taken_s = updates["finish_s"][updates["version"] == step["version"] - 1]
        sizes.append(len(taken_s))
        assert 3 <= sizes[-1] <= 6
        assert step["time_s"] == (taken_s[5] if sizes[-1] == 6 else taken_s[2] + 0.08)
        assert (taken_s <= step["time_s"]).all()
    assert 6 in sizes
    assert {3, 4, 5} & set(sizes), "by the window and by all"


def test_messages_down_are_counted_step_by_step_and_a_replay_has_as_many(tmp_path):
    """Downloads of many sizes: how many there were until a step follows from nothing else in the trace."""
    settings = ["algorithm=fedasync", "server.buffer_size=5", "downlink.delivery=unicast"]
    settings += ["downlink.codec=qsgd", "downlink.bits=4", "downlink.mode=direct", "downlink.entropy=zstd"]
    small = [
        "task.clients=20",
        "stop.uploads=60",
        "clock.kind=virtual",
        "evaluation.every_steps=1",
        *settings,
    ]
    virtual.run(load("digits", small), None, tmp_path / "a.h5")
    whole = row(tmp_path / "a.h5")
    with open_trace(tmp_path / "a.h5") as trace:
        steps = trace.table("steps")
    loss = float(steps["loss"][6])
    aimed = virtual.run(load("digits", [*small, f"stop.loss={loss}"]), None, tmp_path / "b.h5")
    assert aimed.outcome == "target reached"
    stopped, counted = row(tmp_path / "b.h5"), row(tmp_path / "a.h5", Target(loss=loss))
    assert 0 < stopped["uploads"] < whole["uploads"]
    for count in ("payload", "wire", "paper"):
        for way in ("down", "unicast"):
            key = f"{count}_bytes_{way}"
            assert stopped[key] == stopped[f"{key}_to_target"] == counted[f"{key}_to_target"], key
    assert steps["messages_down"][-1] > steps["version"][-1] + 5
    replay.run(tmp_path / "a.h5", None, out=tmp_path / "again.h5")
    with open_trace(tmp_path / "again.h5") as trace:
        assert (trace.table("steps")["messages_down"] == steps["messages_down"]).all()
    again = row(tmp_path / "again.h5")
    assert [again[f"{count}_bytes_down"] for count in ("payload", "wire", "paper")] == [
        whole[f"{count}_bytes_down"] for count in ("payload", "wire", "paper")
    ]


def test_clients_that_are_asked_have_as_many_steps_as_there_was_time_for(tmp_path):
    """P = 4 steps of a quarter of a second: those asked for the second time have made all that fit between."""
    settings = ["client.local_steps=4", "server.buffer_size=10", "clock.ask_seconds=0.3", "stop.uploads=40"]
    clock = ["clock.kind=virtual", "clock.duration.kind=constant", "clock.duration.scale=1.0"]
    small = ["task.clients=20", "evaluation.every_steps=1000", *clock]
    virtual.run(load("digits", [*small, "algorithm=quafl", *settings]), None, tmp_path / "a.h5")
    with open_trace(tmp_path / "a.h5") as trace:
        updates, steps = trace.table("updates"), trace.table("steps")
    assert steps["version"].max() == 4
    assert (updates["staleness"] == 0).all()
    # 0.3 s are one step: nobody is without one, and the first answers differ from x^0.
    assert np.isfinite(updates["loss"]).all()
    waited = updates["finish_s"] - updates["start_s"]
    assert waited.min() >= 0.3 - 1e-9
    assert np.allclose(updates["train_seconds"], waited)


def test_what_wraps_around_is_in_the_trace_upload_by_upload_and_step_by_step_and_said(tmp_path, capsys):
    codecs = [f"{way}.{what}" for way in ("uplink", "downlink") for what in ("codec=lattice", "spacing=1e-6")]
    small = ["task.clients=20", "stop.uploads=60", "evaluation.every_steps=1000", "clock.kind=virtual"]
    # Updates of which nothing arrives would move nothing, and leave nothing to be sent down.
    up = ["uplink.spacing=1e-2", "uplink.bits=8"]
    virtual.run(load("digits", [*small, *codecs, *up]), None, tmp_path / "down.h5")
    virtual.run(load("digits", [*small, *codecs]), None, tmp_path / "up.h5")
    for name, what, versions in (("down", "buckets of the broadcast", set(range(6))), ("up", "buckets", {0})):
        with open_trace(tmp_path / f"{name}.h5") as trace:
            faults = trace.table("faults")
        assert {FAULT_NAMES[kind] for kind in faults["kind"]} == {"wrapped around"}
        assert all(row["detail"].decode().startswith(f"{what}: ") for row in faults)
        assert set(faults["version"]) >= versions
    said = capsys.readouterr().err
    assert said.count("wrapped around: buckets of the broadcast") == 1
    assert said.count("wrapped around: client") == 10


def test_what_a_round_did_not_wait_for_is_not_kept(tmp_path, monkeypatch):
    """Each round has four of twelve; with dropouts some rounds begin a second cohort."""
    step, kept = virtual.Simulation._step, []

    def stepped(simulation):
        step(simulation)
        kept.append((len(simulation.start_version), len(simulation.workers.settle()[0])))

    monkeypatch.setattr(virtual.Simulation, "_step", stepped)
    rounds = ["algorithm=fedavg", "clock.kind=virtual", "clock.concurrency=12", "clock.dropout=0.6"]
    summary = virtual.run(load("digits", [*rounds, *OF_FOUR]), None, tmp_path / "a.h5")
    assert kept == [(0, 0)] * summary.server_steps == [(0, 0)] * 5
    assert replay.run(tmp_path / "a.h5").outcome == "the same"


ALWAYS = ("clock.kind=virtual", "clock.start=always", "clock.concurrency=12", "task.clients=12")


@pytest.mark.parametrize(
    "settings", [[], ["clock.restart_before_step=false"], ["clock.start=constant"]], ids=str
)
def test_the_last_upload_makes_its_step(tmp_path, settings):
    summary = virtual.run(load("digits", [*ALWAYS, *OF_FOUR, *settings]), None, tmp_path / "a.h5")
    assert (summary.outcome, summary.uploads, summary.server_steps) == ("finished", 20, 5)
    with open_trace(tmp_path / "a.h5") as trace:
        assert trace.table("steps")["time_s"][-1] == trace.table("updates")["finish_s"][-1]
    found = replay.run(tmp_path / "a.h5")
    assert (found.outcome, found.server_steps) == ("the same", 5)


def test_a_run_that_is_interrupted_before_a_step_makes_it_when_it_goes_on(tmp_path, monkeypatch):
    """Stopped between the upload that completes the second step and the restart before it."""
    finish, due = virtual.Simulation._finish, []

    def finished(simulation, event):
        finish(simulation, event)
        due.append(simulation.step_due)

    experiment = load("digits", [*ALWAYS, *OF_FOUR])
    virtual.run(experiment, None, tmp_path / "a.h5")
    monkeypatch.setattr(virtual.Simulation, "_finish", finished)
    first = virtual.run(experiment, None, tmp_path / "b.h5", interrupted=lambda: due.count(True) == 2)
    assert (first.outcome, first.uploads, first.server_steps) == ("interrupted", 8, 1)
    monkeypatch.undo()
    _, path = next(numbered(shards_of(tmp_path / "b.h5")))
    virtual.run(experiment, None, tmp_path / "b.h5", resume=path)
    assert result(tmp_path / "a.h5") == result(tmp_path / "b.h5")


def test_rejected_and_clipped_updates_are_counted_on_when_it_goes_on(tmp_path, monkeypatch):
    """Stopped in the middle, when there were some of both."""
    bounds = ["clock.kind=virtual", "clock.concurrency=8", "server.clip_norm=0.12", "server.reject_norm=0.13"]
    experiment = load("digits", [*bounds, *OF_FOUR, "task.clients=12"])
    whole = virtual.run(experiment, None, tmp_path / "a.h5")
    note, noted = Rejections.note, []

    def counted(rejections, *arguments, **named):
        note(rejections, *arguments, **named)
        noted[:] = rejections.total(REJECTED), rejections.total(CLIPPED)

    monkeypatch.setattr(Rejections, "note", counted)
    virtual.run(experiment, None, tmp_path / "b.h5", interrupted=lambda: bool(noted) and all(noted))
    assert 0 < noted[0] < whole.rejected_updates
    assert 0 < noted[1] < whole.clipped_updates
    monkeypatch.undo()
    _, path = next(numbered(shards_of(tmp_path / "b.h5")))
    virtual.run(experiment, None, tmp_path / "b.h5", resume=path)
    assert result(tmp_path / "a.h5") == result(tmp_path / "b.h5")
