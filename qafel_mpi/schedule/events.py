"""Schedules: in which order clients start and finish, in virtual time.

A schedule hands out events one by one in a total order (time, kind, sequence); at equal times a finish comes
before a start. It knows nothing of models: the driver asks `next(version)` and does what the event says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

import numpy as np

from qafel_mpi.kernels.keys import Stream
from qafel_mpi.kernels.state import State
from qafel_mpi.schedule.config import ClockConfig, StalenessControl
from qafel_mpi.schedule.draws import durations, gaps, generator, mean_duration, speeds
from qafel_mpi.schedule.population import Population

FINISH, START = 0, 1


class Event(NamedTuple):
    """Compared in this order; a training's start and its finish share the sequence number, no other two do."""

    t_s: float  # virtual seconds since the run began
    kind: int
    sequence: int
    client: int
    participation: int  # which of this client's trainings
    start_s: float
    reports: bool  # False: the client drops out, and nobody sees what it computed


EVENT = np.dtype(  # an Event as a saved row
    [
        ("t_s", "<f8"), ("kind", "<i8"), ("sequence", "<i8"), ("client", "<i8"), ("participation", "<i8"),
        ("start_s", "<f8"), ("reports", "?"),
    ]
)  # fmt: skip


def saved(events: Sequence[Event]) -> np.ndarray:
    """Events as rows, in their order."""
    return np.array(events, dtype=EVENT)


def restored(rows: np.ndarray) -> list[Event]:
    """The events of `saved`. Raises ValueError where the rows are none."""
    if not isinstance(rows, np.ndarray) or rows.dtype != EVENT or rows.ndim != 1:
        raise ValueError("saved events are not rows of events")
    return [Event(*row) for row in rows.tolist()]


class Schedule(Protocol):
    def next(self, version: int) -> Event:
        """The next event, given the server's version."""
        ...

    def state(self) -> State:
        """What is planned, and where its random numbers stand."""
        ...

    def restore(self, state: State) -> None:
        """Go on from the state of a schedule of the same settings. Raises ValueError where it does not fit."""
        ...


class _Timed:
    """Who has started finishes after a duration: a heap of finishes."""

    def __init__(self, clock: ClockConfig, clients: int, seed: int, *, replacement: bool):
        self.people = Population(clients, seed, replacement=replacement, dropout=clock.dropout)
        self._durations = durations(clock.duration, seed)
        self._speeds = speeds(clock.duration, clients, seed)
        self._finishes: list[Event] = []
        self._due: list[Event] = []  # starts to be handed out before anything else, the last one first
        self._sequence = 0

    def _begin(self, t_s: float) -> Event:
        """The start of a client drawn now; its finish is queued."""
        client, participation, reports = self.people.begin()
        duration = next(self._durations)
        if self._speeds is not None:
            duration *= self._speeds[client]
        n = self._sequence = self._sequence + 1
        heappush(self._finishes, Event(t_s + duration, FINISH, n, client, participation, t_s, reports))
        return Event(t_s, START, n, client, participation, t_s, reports)

    def _finish(self) -> Event:
        """The next finish."""
        event = heappop(self._finishes)
        self.people.finish(event.client)
        return event

    def state(self) -> State:
        return {
            "people": self.people.state(),
            "durations": self._durations.state(),
            "finishes": saved(self._finishes),
            "due": saved(self._due),
            "sequence": self._sequence,
        }

    def restore(self, state: State) -> None:
        self.people.restore(state["people"])
        self._durations.restore(state["durations"])
        self._finishes, self._due = restored(state["finishes"]), restored(state["due"])
        self._sequence = int(state["sequence"])


class Arrivals(_Timed):
    """Clients start at a rate, whoever trains already; past `limit` in training a start waits for a finish."""

    def __init__(self, clock: ClockConfig, clients: int, seed: int, default_concurrency: int):
        super().__init__(clock, clients, seed, replacement=clock.replacement)
        self.limit = clock.limit if clock.replacement else min(clock.limit or clients, clients)
        rate = clock.starts_per_second(default_concurrency, mean_duration(clock.duration))
        self._gaps = gaps(rate, clock.start == "poisson", seed)
        self._waiting = 0
        self._next_start_s = 0.0

    def next(self, version: int) -> Event:
        if self._due:
            return self._due.pop()
        while not self._finishes or self._finishes[0].t_s > self._next_start_s:
            t_s = self._next_start_s
            self._next_start_s = t_s + next(self._gaps)
            if self.limit is None or self.people.training < self.limit:
                return self._begin(t_s)
            self._waiting += 1
        event = self._finish()
        if self._waiting:
            self._waiting -= 1
            self._due.append(self._begin(event.t_s))
        return event

    def state(self) -> State:
        return super().state() | {
            "gaps": self._gaps.state(),
            "waiting": self._waiting,
            "next_start_s": self._next_start_s,
        }

    def restore(self, state: State) -> None:
        super().restore(state)
        self._gaps.restore(state["gaps"])
        self._waiting, self._next_start_s = int(state["waiting"]), float(state["next_start_s"])


class AlwaysTraining(_Timed):
    """So many clients train at any time: after a finish one that does not train starts at once.

    Where all clients train, that is the one that has finished (the paper's logistic regression). The start follows
    the finish immediately, so the driver can put the server step before or after it.
    """

    def __init__(self, clock: ClockConfig, clients: int, seed: int):
        super().__init__(clock, clients, seed, replacement=False)
        concurrency = clock.concurrency or clients
        self._due = [self._begin(0.0) for _ in range(concurrency)][::-1]

    def next(self, version: int) -> Event:
        if self._due:
            return self._due.pop()
        event = self._finish()
        self._due.append(self._begin(event.t_s))
        return event


class Rounds(_Timed):
    """Synchronous rounds: a cohort of different clients starts from each version; late ones are of no use."""

    def __init__(self, clock: ClockConfig, clients: int, seed: int, cohort: int):
        super().__init__(clock, clients, seed, replacement=False)
        self.cohort = cohort
        self._version = -1
        self._now_s = 0.0

    def next(self, version: int) -> Event:
        # Where too many of a cohort have dropped out, another one starts from the same version.
        if version != self._version or not (self._due or self._finishes):
            self._version = version
            self._open_round()
        if self._due:
            return self._due.pop()
        event = self._finish()
        self._now_s = event.t_s
        return event

    def state(self) -> State:
        return super().state() | {"version": self._version, "now_s": self._now_s}

    def restore(self, state: State) -> None:
        super().restore(state)
        self._version, self._now_s = int(state["version"]), float(state["now_s"])

    def _open_round(self) -> None:
        """Clients of the last round that are late are given up: they are free for this one."""
        for late in self._finishes:
            self.people.finish(late.client)
        self._finishes.clear()
        self._due = [self._begin(self._now_s) for _ in range(self.cohort)][::-1]


class ControlledStaleness:
    """The n-th upload is used at step t = n // K and starts from version max(0, t − τ_n), τ_n by decree.

    Virtual time counts server steps. Nothing waits and nothing drops out; where the server rejects updates, others
    that are not stale take their places.
    """

    def __init__(self, control: StalenessControl, clients: int, seed: int, buffer_size: int):
        self.control, self.buffer_size, self.seed = control, buffer_size, seed
        self.people = Population(clients, seed, replacement=True, dropout=0.0)
        self._opened = -1
        self._starts: list[Event] = []
        self._finishes: list[Event] = []
        self._planned = 0  # steps whose uploads have their τ
        self._replaced = 0  # uploads that had none
        self._now_s = 0.0
        self._beginning: dict[int, list[int]] = {}  # version -> numbers n of the uploads that start from it

    def next(self, version: int) -> Event:
        if version != self._opened:
            self._opened = version
            self._open(version)
        if not (self._starts or self._finishes):
            self._replace()
        event = self._starts.pop() if self._starts else heappop(self._finishes)
        self._now_s = max(self._now_s, event.t_s)
        return event

    def _replace(self) -> None:
        """One more client, that starts and finishes now: all uploads of this step have come, and it lacks some."""
        self._replaced += 1
        client, participation, _ = self.people.begin()
        now_s, n = self._now_s, -self._replaced
        self._starts.append(Event(now_s, START, n, client, participation, now_s, True))
        heappush(self._finishes, Event(now_s, FINISH, n, client, participation, now_s, True))

    def state(self) -> State:
        beginning = [(version, n) for version, numbers in self._beginning.items() for n in numbers]
        return {
            "people": self.people.state(),
            "opened": self._opened,
            "planned": self._planned,
            "replaced": self._replaced,
            "now_s": self._now_s,
            "starts": saved(self._starts),
            "finishes": saved(self._finishes),
            "beginning": np.array(beginning, dtype=np.int64).reshape(-1, 2),
        }

    def restore(self, state: State) -> None:
        self.people.restore(state["people"])
        self._opened, self._planned = int(state["opened"]), int(state["planned"])
        self._replaced, self._now_s = int(state["replaced"]), float(state["now_s"])
        self._starts, self._finishes = restored(state["starts"]), restored(state["finishes"])
        self._beginning = {}
        for version, n in state["beginning"].tolist():
            self._beginning.setdefault(version, []).append(n)

    def _open(self, version: int) -> None:
        """All uploads that start from this version, whichever later step uses them."""
        while self._planned <= version + self.control.max:
            self._plan(self._planned)
            self._planned += 1
        starts = []
        for n in self._beginning.pop(version, ()):
            step, k = divmod(n, self.buffer_size)
            client, participation, _ = self.people.begin()
            start_s = max(
                self._now_s, float(version)
            )  # a step that was late, for want of uploads, delays those behind
            t_s = max(start_s, step + (k + 1) / (self.buffer_size + 1))
            heappush(self._finishes, Event(t_s, FINISH, n, client, participation, start_s, True))
            starts.append(Event(start_s, START, n, client, participation, start_s, True))
        self._starts = starts[::-1]

    def _plan(self, step: int) -> None:
        """Draw τ of the K uploads that this step will use."""
        taus = [self.control.max] * self.buffer_size
        if self.control.kind == "uniform":
            g = generator(self.seed, Stream.SCHEDULE, owner=1, counter=step)
            taus = g.integers(0, self.control.max + 1, self.buffer_size).tolist()
        for k, tau in enumerate(taus):
            self._beginning.setdefault(max(0, step - tau), []).append(step * self.buffer_size + k)


def schedule(clock: ClockConfig, *, clients: int, seed: int, buffer_size: int, synchronous: bool) -> Schedule:
    """The schedule that the settings describe. Raises OSError or ValueError for a bad file of durations."""
    if clock.staleness is not None:
        return ControlledStaleness(clock.staleness, clients, seed, buffer_size)
    if synchronous:
        return Rounds(clock, clients, seed, clock.concurrency or buffer_size)
    if clock.start == "always":
        return AlwaysTraining(clock, clients, seed)
    return Arrivals(clock, clients, seed, default_concurrency=min(clients, 10 * buffer_size))


def in_training(clock: ClockConfig, *, clients: int, buffer_size: int, synchronous: bool) -> int:
    """How many train at a time under that schedule: on average where they start at a rate, else at most."""
    if clock.staleness is not None:
        return (clock.staleness.max + 1) * buffer_size
    if synchronous:
        return clock.concurrency or buffer_size
    if clock.start == "always":
        return clock.concurrency or clients
    mean_s = mean_duration(clock.duration)
    some = math.ceil(clock.starts_per_second(min(clients, 10 * buffer_size), mean_s) * mean_s)
    return min(some, clock.limit or some, some if clock.replacement else clients)
