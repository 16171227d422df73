"""Ranks that die in a run that goes on without them (Open MPI's ULFM), or that ends with one message."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import FAULT_NAMES
from qafel_mpi.wire import Kind
from tests.support import mpirun
from tests.system.command import qafel
from tests.system.namespaces import launcher

# A command whose ranks die: DIE="1:kill:5 2:exit0:9" is rank, how, and at its how-manieth training. "2:end:1" trains
# slowly, and dies a second after it has heard that the run is over.
PROGRAM = """
import os, sys, signal, subprocess, time
from qafel_mpi.commands import app, environment, process
environment.ready_mpi()
from qafel_mpi.drivers.wall import client, run, server
from qafel_mpi.drivers.virtual import worker, workers
rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
for plan in os.environ["DIE"].split():
    who, how, at = plan.split(":")
    if int(who) == rank:
        def dies(cls, name, how=how, at=at):
            before, left = getattr(cls, name), [int(at)]
            def method(*arguments, **named):
                left[0] -= 1
                if left[0] == 0:
                    if how == "freeze":
                        subprocess.Popen(["sh", "-c", f"sleep 4; kill -CONT {os.getpid()}"])
                        os.kill(os.getpid(), signal.SIGSTOP)
                    if how == "kill": os.kill(os.getpid(), signal.SIGKILL)
                    if how.startswith("exit"): os._exit(int(how[4:]))
                    if how.startswith("sysexit"): sys.exit(int(how[7:]))
                    if how == "raise": raise RuntimeError("boom")
                return before(*arguments, **named)
            setattr(cls, name, method)
        if how == "start":
            run.begin = lambda *arguments, **named: os.kill(os.getpid(), signal.SIGKILL)
            continue
        if how == "end":
            look, train = worker.Worker._look_for_halt, worker.Worker._train
            def dies_at_the_end(self):
                look(self)
                if self.halted:
                    time.sleep(1)
                    os.kill(os.getpid(), signal.SIGKILL)
            def slowly(self, *arguments):
                time.sleep(0.2)
                train(self, *arguments)
            worker.Worker._look_for_halt, worker.Worker._train = dies_at_the_end, slowly
            continue
        dies(*((server.WallServer, "_step") if rank == 0 else (client.WallClient, "_participate")))
        dies(workers.Trainer, "train")
app.main()
"""
HOST = socket.gethostname()


def run(folder, *arguments, ranks, die, survive=True):
    """The command with ranks that die; survive: with the MPI that goes on."""
    (folder / "program.py").write_text(PROGRAM)
    fault_tolerant = ["--with-ft", "ulfm"] if survive else []
    return subprocess.run(
        [mpirun(), *fault_tolerant, "-n", str(ranks), sys.executable, "program.py", "run", "digits", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"DIE": die, "MPIEXEC_TIMEOUT": "280", "COLUMNS": "200"},
    )  # fmt: skip


needs_ulfm = pytest.mark.skipif(
    launcher() == "hydra", reason="needs Open MPI 5, which goes on without a rank"
)


def ended(trace):
    return [FAULT_NAMES[kind] for kind in trace.table("faults")["kind"].tolist()]


@needs_ulfm
def test_a_run_goes_on_without_the_ranks_that_die_and_their_clients_move(tmp_path):
    """By a signal, an exit of any code, and an exception: each is named with its host, and the trace replays."""
    # Long enough for all to be noticed: a rank that fails is gone 0.3 s later.
    settings = (
        *("--set", "task.clients=20", "--set", "stop.uploads=1200", "--set", "stop.accuracy=1.0"),
        *("--set", "client.pause_seconds=0.002"),
    )
    dies = "1:kill:5 2:exit0:9 3:raise:4 4:exit3:7 5:sysexit3:6"
    done = run(tmp_path, *settings, "--out", "a.h5", ranks=7, die=dies)
    assert done.returncode == 0, done.stderr
    for rank in range(1, 6):
        assert f"qafel-mpi: rank {rank} on {HOST} has died" in done.stderr
    assert f"rank 3 on {HOST}: failed\n" in done.stderr
    assert "RuntimeError: boom" in done.stderr
    with open_trace(tmp_path / "a.h5") as trace:
        faults, updates, ranks = (trace.table(name) for name in ("faults", "updates", "ranks"))
        assert ended(trace) == ["rank died"] * 5
        assert sorted(faults["rank"].tolist()) == [1, 2, 3, 4, 5]
        assert set(faults["host"].tolist()) == {HOST.encode()}
        assert trace.attributes["outcome"] == "finished"
        assert len(ranks) == 7
        trainings = list(zip(updates["client"].tolist(), updates["participation"].tolist(), strict=True))
        assert len(set(trainings)) == len(trainings) >= 150, "a training was used twice"
        alone = updates[-40:]
        assert set(alone["rank"].tolist()) == {6}
        assert len(np.unique(alone["client"])) > 10, "rank 6 hosted four of them at first"
    again = qafel("replay", "a.h5", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr


@needs_ulfm
def test_spare_ranks_take_the_place_of_ranks_that_die_and_end_with_the_same_hidden_state(tmp_path):
    """The first death is early, and missed payloads are cheaper; the second is late, and the full state is."""
    settings = [f"--set={key}" for key in ("transport.spares=2", "task.clients=20", "stop.uploads=450",
                "stop.accuracy=1.0", "server.buffer_size=10", "client.pause_seconds=0.02")]  # fmt: skip
    done = run(tmp_path, *settings, "--out", "a.h5", ranks=5, die="1:kill:2 2:kill:140")
    assert done.returncode == 0, done.stderr
    assert f"qafel-mpi: rank 3 on {HOST} joins; it takes the place of rank 1" in done.stderr
    with open_trace(tmp_path / "a.h5") as trace:
        faults, updates, ranks = (trace.table(name) for name in ("faults", "updates", "ranks"))
        messages, outcome = trace.table("messages"), trace.attributes["outcome"]
        assert ended(trace) == ["rank died", "rank joined"] * 2
    assert outcome == "finished"
    assert faults["rank"].tolist() == [1, 3, 2, 4]
    assert faults["version"][1] < faults["version"][3]
    assert faults["detail"][1].decode().endswith("missed payloads")
    assert faults["detail"][3].decode().endswith("the full state")
    got = messages[(messages["end"] == 1) & (messages["kind"] == Kind.MODEL)]
    assert set(got["dst"].tolist()) == {4}
    living = np.isin(ranks["rank"], [0, 3, 4])
    assert len(set(ranks["x_hat_digest"][living].tolist())) == 1
    trainings = list(zip(updates["client"].tolist(), updates["participation"].tolist(), strict=True))
    assert len(set(trainings)) == len(trainings), "a training was used twice"
    assert set(updates["rank"][-40:].tolist()) == {3, 4}
    again = qafel("replay", "a.h5", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr


def test_a_client_that_was_frozen_gets_the_full_state_and_ends_with_the_same_hidden_state(tmp_path):
    """What it has missed meanwhile is longer than the model; that all ranks end with one x̂ the run itself checks."""
    settings = (
        "--set",
        "stop.seconds=8",
        "--set",
        "stop.accuracy=1.0",
        "--set",
        "client.pause_seconds=0.002",
    )
    done = run(tmp_path, *settings, "--out", "a.h5", ranks=4, die="1:freeze:5", survive=False)
    assert done.returncode == 0, done.stderr
    with open_trace(tmp_path / "a.h5") as trace:
        assert trace.attributes["outcome"] == "finished"
        messages, ranks = trace.table("messages"), trace.table("ranks")
        updates = trace.table("updates")
    assert len(set(ranks["x_hat_digest"].tolist())) == 1
    finished = np.sort(updates["finish_s"][updates["rank"] == 1])
    gap = int(np.argmax(np.diff(finished)))
    assert finished[gap + 1] - finished[gap] > 3, "it was frozen"
    woke_s = finished[gap + 1]
    model = messages[(messages["kind"] == Kind.MODEL) & (messages["dst"] == 1) & (messages["end"] == 1)]
    assert len(model) >= 1
    assert np.all(np.abs(model["t_complete"] - woke_s) < 3)
    assert len(finished) > gap + 5, "it trains again"


@needs_ulfm
def test_without_rank_0_the_job_ends_with_one_message_and_resumes(tmp_path):
    settings = ("--set", "task.clients=20", "--set", "stop.uploads=200", "--set", "stop.accuracy=1.0")
    where = ("--checkpoint-every", "1", "--out", "a.h5")
    done = run(tmp_path, *settings, *where, ranks=3, die="0:kill:9")
    assert done.returncode != 0
    assert done.stderr.count(f"rank 0 on {HOST} has died") == 1, done.stderr
    assert "Traceback" not in done.stderr
    done = qafel("run", "--resume", "a.h5", ranks=3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with open_trace(tmp_path / "a.h5") as trace:
        assert trace.attributes["outcome"] == "finished"
        assert len(trace.table("steps")) > 20


@needs_ulfm
def test_what_can_not_go_on_says_so_beforehand_and_ends_with_one_message(tmp_path):
    done = run(
        tmp_path, "--set", "transport.broadcast=tree", "--set", "stop.uploads=100000", ranks=4, die="2:kill:5"
    )
    assert done.returncode == 3
    beforehand = "qafel-mpi: the death of a client rank will end this run: transport.broadcast = 'tree'"
    assert done.stderr.count(beforehand) == 1
    assert done.stderr.count(f"rank 2 on {HOST} has died") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert qafel("merge", "runs/digits-qafel-seed0.shards", cwd=tmp_path).returncode == 0


@needs_ulfm
def test_a_rank_that_dies_at_the_start_ends_the_job_with_one_message(tmp_path):
    done = run(tmp_path, "--out", "a.h5", ranks=3, die="2:start:1")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("rank 2 died at the start: the run had not begun yet") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "a.shards").exists()


@needs_ulfm
def test_a_virtual_run_ends_with_the_same_bits_without_the_workers_that_die(tmp_path):
    """What they had been given goes to others, from the versions that it was to start from."""
    settings = [f"--set={key}" for key in ("clock.kind=virtual", "stop.uploads=3000", "stop.accuracy=1.0",
                "task.clients=40", "clock.concurrency=20", "evaluation.every_steps=5")]  # fmt: skip
    done = run(tmp_path, *settings, "--out", "a.h5", ranks=5, die="2:kill:1 3:exit3:2 4:raise:1")
    assert done.returncode == 0, done.stderr
    alone = qafel("run", "digits", *settings, "--out", "b.h5", cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    with open_trace(tmp_path / "a.h5") as a, open_trace(tmp_path / "b.h5") as b:
        assert ended(a) == ["rank died"] * 3
        assert a.table("faults")["in_flight"].sum() > 0, "they died with nothing to do"
        assert np.array_equal(a.table("updates"), b.table("updates"))
        assert all(np.array_equal(a.final(name), b.final(name)) for name in ("x", "x_hat"))


@needs_ulfm
def test_a_worker_that_dies_when_the_others_have_been_told_to_stop_leaves_nothing_to_do(tmp_path):
    """Others would take no order behind that, and rank 0 would wait for ever until they do."""
    settings = [f"--set={key}" for key in ("clock.kind=virtual", "stop.uploads=100", "stop.accuracy=1.0",
                "task.clients=100", "clock.concurrency=60", "server.buffer_size=4", "client.together=1",
                "evaluation.every_steps=1000", "transport.watchdog_seconds=60")]  # fmt: skip
    done = run(tmp_path, *settings, "--out", "a.h5", ranks=4, die="2:end:1")
    assert done.returncode == 0, done.stderr
    assert f"rank 2 on {HOST} has died; nothing is left to do" in done.stderr
    with open_trace(tmp_path / "a.h5") as trace:
        assert trace.attributes["outcome"] == "finished"
        assert ended(trace) == ["rank died"]
        assert trace.table("faults")["in_flight"].tolist() == [0]


# Rank 0 has heard of rank 2's death and not acknowledged it: its receives from any source are called pending. Then
# rank 1 sends as many messages as there are slots.
PENDING = """
import os, signal, time
import numpy as np
from mpi4py import MPI
from qafel_mpi.transport.frames import Sends, new_frame
from qafel_mpi.transport.inbox import Inbox
from qafel_mpi.wire import Kind
comm = MPI.COMM_WORLD.Dup()
comm.Set_errhandler(MPI.ERRORS_RETURN)
if comm.rank == 0:
    inbox, came = Inbox(comm, 7, payload_bytes=0, slots=8, source=MPI.ANY_SOURCE), []
comm.Barrier()
if comm.rank == 2:
    os.kill(os.getpid(), signal.SIGKILL)
if comm.rank == 1:
    comm.Recv(np.empty(1), 0, 8)
    sends = Sends(comm, 7)
    for _ in range(8):
        sends.post(new_frame(0).seal(Kind.BYE), 0)
    while len(sends):
        sends.poll()
else:
    while not comm.Get_failed().size:
        came += inbox.poll()
    came += inbox.poll()
    comm.Send(np.empty(1), 1, 8)
    until_s = time.monotonic() + 5
    while len(came) < 8 and time.monotonic() < until_s:
        came += inbox.poll()
    print("received", len(came), "from", {received.source for received in came}, flush=True)
os._exit(0)
"""


@needs_ulfm
def test_no_message_of_a_living_rank_is_lost_when_another_dies(tmp_path):
    """Open MPI says "pending" once more with the message that completes such a receive."""
    (tmp_path / "pending.py").write_text(PENDING)
    command = [mpirun(), "--with-ft", "ulfm", "-n", "3", sys.executable, "pending.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "received 8 from {1}", done.stdout + done.stderr
