"""A wall-clock run on a simulated network, and what must hold of it whatever the seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import build as build_codec
from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.config import Experiment, load
from qafel_mpi.drivers.build import RunSummary, Setup
from qafel_mpi.drivers.session import HiddenStateError, Session
from qafel_mpi.drivers.survival.every import Every
from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.drivers.wall.population import hosting_of, population_of
from qafel_mpi.drivers.wall.server import WallServer
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult
from qafel_mpi.trace_schema import DROPPED, UPDATES
from qafel_mpi.transport.backoff import WaitedTooLongError
from qafel_mpi.wire import HEADER, HEADER_BYTES, Kind, WireError
from tests.simulation.mpi import Network, simulated_mpi
from tests.simulation.world import Pauses, World, clock_of

LAYOUT = Layout(("weight", "bias"), ((9, 10), (7,)))  # 97 elements: no multiple of anything
LIMIT_S = 20.0  # on the simulated clock; a run takes some seconds
# quiet: what MPI allows and nothing else. damaged: bits flip in uploads. wild: messages of any kind are damaged
# or lost, which MPI never does, but memory, a driver or a bug may.
# deadly: client ranks die, and the run goes on.
KINDS = ("quiet", "damaged", "wild", "deadly")
# What a rank may raise because of such a message; the job then ends with that reason.
SAID = (WireError, HiddenStateError, WaitedTooLongError, ValueError)
ALGORITHMS = ("qafel", "fedbuff", "naive", "fedasync", "fedavg")


class Walk(Task):
    """A training that costs nothing: a step towards a point of the client's own, and a little of its seed."""

    layout, dtype, device = LAYOUT, torch.float32, torch.device("cpu")

    def __init__(self, world: World, clients: int, steps: int, step_s: float):
        self.world, self.clients, self.steps, self.step_s = world, clients, steps, step_s

    def initial(self, seed: int) -> Tensor:
        return torch.linspace(-1, 1, LAYOUT.elements)

    def examples(self, client: int) -> int:
        return 1 + client % 5

    def train(
        self,
        client: int,
        start: Tensor,
        delta: Tensor,
        seed: int,
        poll: Poll | None = None,
        *,
        version: int = 0,
    ) -> TrainResult:
        goal = torch.from_numpy(
            np.random.Generator(np.random.Philox(key=client)).random(LAYOUT.elements, np.float32)
        )
        noise = (seed >> 40) / 2**24
        delta.copy_(0.2 * (goal - start) + 0.01 * noise)
        for _ in range(self.steps):
            self.world.sleep(self.world.random.random() * self.step_s)
            if poll is not None:
                poll()
        return TrainResult(float(delta.norm()), self.examples(client), self.steps)

    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        return Evaluation(float(x.norm()), 0.0, 1)

    def gradient_norm_squared(self, x: Tensor) -> float:
        return 0.0


@dataclass(frozen=True)
class Scenario:
    """What a seed decides on."""

    seed: int
    ranks: int
    settings: tuple[str, ...]
    latency_s: float
    step_s: float
    speeds: tuple[float, ...]
    interrupt_s: float | None
    kind: str
    kills: Mapping[int, float]  # by client rank, the seconds after which it dies
    share: float  # of the messages that something happens to

    @classmethod
    def drawn(cls, seed: int, kind: str) -> Scenario:
        draw = random.Random(f"{seed} {kind}")
        ranks = draw.randint(2, 6)
        algorithm = draw.choice(ALGORITHMS)
        clients = draw.choice([ranks - 1, ranks + 2, 30])
        buffer_size = 1 if algorithm == "fedasync" else draw.randint(1, min(6, clients))
        broadcast = draw.choice(["fanout", "fanout", "tree", "ibcast"]) if kind != "deadly" else "fanout"
        hosted = algorithm == "fedavg" or draw.random() < 0.7
        settings = [
            f"algorithm={algorithm}",
            f"task.clients={clients if hosted else 'ranks'}",
            f"transport.broadcast={broadcast}",
            f"transport.queue_limit={draw.choice([1, 2, 4])}",
            f"transport.upload_frames={draw.choice([1, 2])}",
            f"transport.receive_slots={draw.choice([1, 4, 32])}",
            f"stop.uploads={draw.randint(20, 60) if kind == 'deadly' else draw.randint(1, 30)}",
        ]
        if hosted:
            settings.append(f"client.draw={draw.choice(['uniform', 'examples', 'permutation'])}")
        if algorithm != "fedasync":
            settings.append(f"server.buffer_size={buffer_size}")
        slow = draw.random() < 0.5
        speeds = tuple(draw.choice([1.0, 0.05]) if slow and rank else 1.0 for rank in range(ranks))
        if kind == "deadly":
            settings.append(f"transport.spares={draw.randint(0, min(2, ranks - 2))}")
        return cls(
            seed,
            ranks,
            tuple(settings),
            latency_s=draw.choice([1e-4, 1e-2]),
            step_s=draw.choice([1e-4, 1e-2]),
            speeds=speeds,
            interrupt_s=draw.uniform(0, 0.5) if draw.random() < 0.2 else None,
            kind=kind,
            kills={
                rank: draw.uniform(0, 0.15)
                for rank in range(1, ranks)
                if kind == "deadly" and draw.random() < 0.5
            },
            share=0.0
            if kind in ("quiet", "deadly")
            else draw.choice([0.02, 0.2])
            if kind == "damaged"
            else 0.01,
        )

    def experiment(self) -> Experiment:
        patient = f"transport.watchdog_seconds={LIMIT_S / 10 if self.kind == 'wild' else 10 * LIMIT_S}"
        return load("digits", ["clock.kind=wall", "stop.accuracy=1.0", patient, *self.settings])


Rows = list[tuple[Any, ...]]


@dataclass
class Recorded:
    """In a Recorder's place: rows in memory."""

    messages: Rows = field(default_factory=list)
    updates: Rows = field(default_factory=list)
    steps: Rows = field(default_factory=list)
    encodings: Rows = field(default_factory=list)
    faults: Rows = field(default_factory=list)

    def flush(self) -> None:
        """Nothing."""

    def fault(self, kind: str, **row: Any) -> None:
        self.faults.append((kind, row))


class Simulated(Session):
    """A session without what surrounds the protocol: no clocks are compared, and nothing is written."""

    end: tuple[int, bytes] = (-1, b"")
    counts: tuple[int, int] = (0, 0)
    outcome = ""

    def keep_books(self) -> None:
        self.deaths.look()

    def close(
        self, version: int, x_hat: Tensor, *, shared_state: bool, compare: bool = True, **counts: int
    ) -> None:
        self.end = (version, x_hat.numpy().tobytes())
        self.counts = (counts["sent"], counts["received"])

    def finish(self, ledger: Any, x: Tensor | None, **totals: Any) -> RunSummary:
        self.outcome = "" if ledger is None else ledger.reason
        return RunSummary(outcome=self.outcome)


@dataclass
class Run:
    """A run that has ended, and what the simulation knows of it."""

    scenario: Scenario
    world: World
    network: Network
    sessions: list[Simulated]
    server: WallServer
    sent: list[
        tuple[int, int, int, bytes]
    ]  # every UPDATE as it was posted: client, participation, rank, payload
    faults: list[tuple[str, Kind, int]]  # what was done to a message, its kind, and its destination
    fresh: Callable[[], Server]


def simulate(scenario: Scenario) -> Run:
    """Raises Hang, and AssertionError where the transport breaks a rule of MPI."""
    nap_s = max(scenario.latency_s, scenario.step_s) / 4
    world = World(scenario.seed, scenario.ranks, limit_s=LIMIT_S, nap_s=nap_s, speeds=scenario.speeds)
    world.kill_at |= {rank: world.now + after for rank, after in scenario.kills.items()}
    sent: list[tuple[int, int, int, bytes]] = []
    faults: list[tuple[str, Kind, int]] = []

    def look(source: int, to: int, data: np.ndarray) -> None:
        header = data[:HEADER_BYTES].view(HEADER)[0]
        if header["kind"] == Kind.UPDATE:
            key = (int(header["client"]), int(header["sequence"]), source)
            sent.append((*key, data[HEADER_BYTES:].tobytes()))

    def fault(source: int, to: int, data: np.ndarray) -> str:
        kind = Kind(int(data[4]))
        if (kind != Kind.UPDATE and scenario.kind != "wild") or world.random.random() >= scenario.share:
            return ""
        what = "damaged" if scenario.kind != "wild" else world.random.choice(["damaged", "lost"])
        faults.append((what, kind, to))
        return what

    network = Network(world, latency_s=scenario.latency_s, fault=fault, look=look)
    experiment = scenario.experiment()
    setups = [setup_of(experiment, world, scenario) for _ in range(scenario.ranks)]
    servers: list[WallServer] = []

    def session_of(rank: int) -> Simulated:
        hosts = [f"host{each}" for each in range(scenario.ranks)]
        place: Any = SimpleNamespace(host=hosts[rank], hosts=hosts, local_rank=0, gpu=None)
        recorder: Any = Recorded()
        comm: Any = network.comm(rank)
        pauses: Any = Pauses(world)
        session = Simulated(experiment, comm, place, Path("nowhere"), recorder, pauses, {})
        session.origin_s = session.heard_s = session.alive_s = world.now
        session.is_open = True
        session.deaths.why = ""
        clocks: Any = SimpleNamespace(leave=lambda rank: None)
        session.clocks = clocks
        no_checkpoints: Any = SimpleNamespace(
            every=Every(never=True),
            due=lambda version: False,
            keep=lambda version, state, waited_s=0.0: None,
        )
        session.recovery.checkpoints = no_checkpoints
        return session

    sessions: list[Simulated] = []

    def interrupted() -> bool:
        after = scenario.interrupt_s
        return after is not None and world.now - sessions[0].origin_s >= after

    def program(rank: int) -> Callable[[], RunSummary]:
        def run() -> RunSummary:
            setup = setups[rank]
            hosting = hosting_of(setup, scenario.ranks)
            if rank:
                return WallClient(sessions[rank], setup, hosting).run()
            servers.append(WallServer(sessions[0], setup, hosting, interrupted, None))
            return servers[0].run()

        return run

    with simulated_mpi(survives=bool(scenario.kills)), clock_of(world):
        sessions += [session_of(rank) for rank in range(scenario.ranks)]
        try:
            world.run([program(rank) for rank in range(scenario.ranks)])
        finally:
            world.stop()
    if not servers:
        raise next(iter(world.errors.values()))
    return Run(scenario, world, network, sessions, servers[0], sent, faults, setups[0].server)


def setup_of(experiment: Experiment, world: World, scenario: Scenario) -> Setup:
    """What drivers.build.build makes of data, made of nothing."""
    clients = population_of(experiment, scenario.ranks)
    task = Walk(world, clients, steps=2, step_s=scenario.step_s)
    uplink, downlink = (
        build_codec(config, LAYOUT, task.dtype, threads=1)
        for config in (experiment.uplink, experiment.downlink)
    )
    full = Identity(LAYOUT, task.dtype)
    return Setup(experiment, task, uplink, downlink, full, clients, task.initial(0), "full", "")


def judge(run: Run) -> None:
    """The run has kept its invariants, or has ended with a reason. Raises AssertionError, or what a rank raised."""
    for error in run.world.errors.values():
        if run.scenario.kind != "wild" or not isinstance(error, SAID):
            raise error
    differ = len({session.end for session in run.sessions}) > 1
    if not run.world.errors and not (run.scenario.kind == "wild" and differ):  # a session's close finds that
        check(run)


def check(run: Run) -> None:
    """The invariants. Raises AssertionError naming the first that is broken."""
    world, sessions = run.world, run.sessions
    living = [rank for rank in range(run.scenario.ranks) if rank not in world.died]
    assert sorted(world.results) == living, "a rank has not come to its end"
    assert run.network.left(living) == 0, "messages are left that nobody has received"
    ends = {sessions[rank].end for rank in living}
    assert len(ends) == 1, "the ranks end with different hidden states"
    use = (UPDATES.names or ()).index("use")
    recorded: Any = sessions[0].recorder.updates
    rows = [row for row in recorded if row[use] != DROPPED]
    ledger = run.server.ledger
    assert len(rows) == ledger.uploads
    refused = sum(kind == Kind.UPDATE for _, kind, _ in run.faults)
    if world.died:
        check_members(run)
    else:
        assert len(rows) + refused == len(run.sent), "an update was lost, or used twice"
    trainings = Counter((row[0], row[1]) for row in rows)
    assert max(trainings.values(), default=1) == 1, "a training was used twice"
    assert sessions[0].dropped == len([1 for what, _, to in run.faults if to == 0 and what != "lost"])
    for row in rows:
        start, version, staleness = row[2:5]
        assert 0 <= start <= version
        assert staleness == version - start
    check_model(run, rows)


def check_members(run: Run) -> None:
    """Every rank that died before the end is recorded once, and its clients live elsewhere."""
    recorder: Any = run.sessions[0].recorder
    noticed = [row["rank"] for kind, row in recorder.faults if kind == "rank died"]
    joined = [row["rank"] for kind, row in recorder.faults if kind == "rank joined"]
    assert len(set(noticed)) == len(noticed)
    assert len(set(joined)) == len(joined)
    assert set(noticed) <= set(run.world.died)
    if len(noticed) == run.scenario.ranks - 1:
        assert (
            run.server.ledger.reason.startswith(("failed: every client rank has died", "interrupted"))
            or run.server.ledger.uploads
        )
    elif not run.server.ledger.reason.startswith("failed"):
        hosting = run.server.members.hosting
        clients = sum(hosting.of(host).size for host in range(len(hosting)))
        assert clients == run.server.setup.clients


def check_model(run: Run, rows: list[tuple[Any, ...]]) -> None:
    """x and x̂ are what Algorithm 1 makes of the recorded updates, in the recorded order, one at a time."""
    payloads = {tuple(key): payload for *key, payload in run.sent}
    at = (UPDATES.names or ()).index("rank")
    again, setup = run.fresh(), run.server.setup
    out = np.zeros(max(1, setup.downlink.payload_bytes()), np.uint8)
    for row in rows:
        client, participation, start, version, _, weight, *_ = row
        while again.version < version:
            again.step(out)
        if not weight:
            continue
        key = derive(setup.experiment.seed, Stream.UPLINK, client, participation)
        payload = np.frombuffer(payloads[client, participation, row[at]], np.uint8).copy()
        examples = setup.task.examples(client)
        assert again.receive(Update(client, start, payload, key, examples)) == weight
    while again.version < run.server.server.version:
        again.step(out)
    assert torch.equal(again.x, run.server.server.x), "x is not what the recorded updates make"
    assert torch.equal(again.x_hat, run.server.server.x_hat)
