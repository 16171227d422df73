"""Schedules: in which order clients start and finish, in virtual time.

A schedule hands out events one by one in a total order (time, kind, sequence); at equal times a finish comes
before a start. It knows nothing of models: the driver asks `next(version)` and does what the event says.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.schedule.config import ClockConfig, StalenessControl
from qafel_mpi.schedule.draws import blocks, durations, gaps, generator, speeds

FINISH, START = 0, 1


class Event(NamedTuple):
    """Compared in this order: two events never share a sequence number."""

    t_s: float  # virtual seconds since the run began
    kind: int
    sequence: int
    client: int
    participation: int  # which of this client's trainings
    start_s: float
    reports: bool  # False: the client has dropped out


class Schedule(Protocol):
    def next(self, version: int) -> Event:
        """The next event, given the server's version."""
        ...


@dataclass
class Population:
    """The clients as the schedule sees them: some bytes each."""

    clients: int
    seed: int
    replacement: bool
    dropout: float

    def __post_init__(self) -> None:
        self.participations = np.zeros(self.clients, dtype=np.uint32)
        self.busy = None if self.replacement else np.zeros(self.clients, dtype=bool)
        self.training = 0
        g = generator(self.seed, Stream.SELECTION)
        self._draws: Iterator[float] = blocks(lambda n: g.integers(0, self.clients, n))
        d = generator(self.seed, Stream.DROPOUT)
        self._reports = blocks(lambda n: d.random(n) >= self.dropout)

    def draw(self) -> int | None:
        """A client to start, uniformly; None where every client is busy and may not start twice."""
        if self.busy is None:
            return int(next(self._draws))
        if self.training >= self.clients:
            return None
        while self.busy[client := int(next(self._draws))]:
            pass
        return client

    def start(self, client: int) -> tuple[int, bool]:
        """(participation, whether it will report)."""
        participation = int(self.participations[client])
        self.participations[client] += 1
        self.training += 1
        if self.busy is not None:
            self.busy[client] = True
        return participation, bool(next(self._reports)) if self.dropout else True

    def finish(self, client: int) -> None:
        self.training -= 1
        if self.busy is not None:
            self.busy[client] = False


class Arrivals:
    """Clients start at a rate, whoever trains already; past `limit` in training a start waits for a finish."""

    def __init__(self, clock: ClockConfig, clients: int, seed: int, default_concurrency: int):
        self.people = Population(clients, seed, clock.replacement, clock.dropout)
        self.limit = clock.limit or (clients if not clock.replacement else None)
        self._gaps = gaps(clock.starts_per_second(default_concurrency), clock.start == "poisson", seed)
        self._durations = durations(clock.duration, seed)
        self._speeds = speeds(clock.duration, clients, seed)
        self._heap: list[Event] = []
        self._sequence = 0
        self._waiting = 0
        self._next_start_s = 0.0

    def next(self, version: int) -> Event:
        while True:
            if self._heap and self._heap[0].t_s <= self._next_start_s:
                event = heapq.heappop(self._heap)
                if event.kind == FINISH:
                    self.people.finish(event.client)
                    if self._waiting:
                        self._waiting -= 1
                        self._start(event.t_s)
                return event
            t_s = self._next_start_s
            self._next_start_s += next(self._gaps)
            if self.limit is not None and self.people.training >= self.limit:
                self._waiting += 1
            else:
                self._start(t_s)

    def _start(self, t_s: float) -> None:
        """Queue the start and its finish."""
        client = self.people.draw()
        assert client is not None, "the limit keeps a client free"
        participation, reports = self.people.start(client)
        duration = next(self._durations)
        if self._speeds is not None:
            duration *= float(self._speeds[client])
        heapq.heappush(self._heap, Event(t_s, START, self._number(), client, participation, t_s, reports))
        heapq.heappush(
            self._heap, Event(t_s + duration, FINISH, self._number(), client, participation, t_s, reports)
        )

    def _number(self) -> int:
        self._sequence += 1
        return self._sequence


class AlwaysTraining:
    """A fixed population that never rests: who finishes starts again at once (the paper's logistic regression).

    The start follows its finish immediately, so the driver can put the server step before or after it.
    """

    def __init__(self, clock: ClockConfig, clients: int, seed: int):
        n = clock.concurrency or clients
        self.people = Population(clients, seed, True, clock.dropout)
        self._durations = durations(clock.duration, seed)
        self._speeds = speeds(clock.duration, clients, seed)
        self._heap: list[Event] = []
        self._sequence = 0
        self._starts: list[Event] = [self._begin(client, 0.0) for client in range(n)][::-1]

    def next(self, version: int) -> Event:
        if self._starts:
            return self._starts.pop()
        event = heapq.heappop(self._heap)
        self.people.finish(event.client)
        self._starts.append(self._begin(event.client, event.t_s))
        return event

    def _begin(self, client: int, t_s: float) -> Event:
        participation, reports = self.people.start(client)
        duration = next(self._durations)
        if self._speeds is not None:
            duration *= float(self._speeds[client])
        self._sequence += 1
        finish = Event(t_s + duration, FINISH, self._sequence, client, participation, t_s, reports)
        heapq.heappush(self._heap, finish)
        return finish._replace(t_s=t_s, kind=START)


class Rounds:
    """Synchronous rounds: a cohort of different clients starts from each version; late ones are of no use."""

    def __init__(self, clock: ClockConfig, clients: int, seed: int, cohort: int):
        self.people = Population(clients, seed, False, clock.dropout)
        self.cohort = cohort
        self._durations = durations(clock.duration, seed)
        self._speeds = speeds(clock.duration, clients, seed)
        self._draws = generator(seed, Stream.SELECTION)
        self._heap: list[Event] = []
        self._starts: list[Event] = []
        self._sequence = 0
        self._version = -1
        self._now_s = 0.0

    def next(self, version: int) -> Event:
        if version != self._version:
            self._version = version
            self._open_round()
        if self._starts:
            return self._starts.pop()
        if not self._heap:  # every client of the cohort has dropped out: the round is drawn again
            self._open_round()
            return self._starts.pop()
        event = heapq.heappop(self._heap)
        self._now_s = event.t_s
        self.people.finish(event.client)
        return event

    def _open_round(self) -> None:
        """Clients of the last round that are late are abandoned: they are free for this one."""
        for late in self._heap:
            self.people.finish(late.client)
        self._heap.clear()
        for client in self._draws.choice(self.people.clients, self.cohort, replace=False).tolist():
            participation, reports = self.people.start(client)
            duration = next(self._durations)
            if self._speeds is not None:
                duration *= float(self._speeds[client])
            self._sequence += 1
            t_s = self._now_s
            finish = Event(t_s + duration, FINISH, self._sequence, client, participation, t_s, reports)
            heapq.heappush(self._heap, finish)
            self._starts.append(finish._replace(t_s=t_s, kind=START))
        self._starts.reverse()


class ControlledStaleness:
    """The n-th upload is used at step t = n // K and starts from version max(0, t − τ_n), τ_n by decree.

    Virtual time counts server steps. Nothing waits and nothing drops out.
    """

    def __init__(self, control: StalenessControl, clients: int, seed: int, buffer_size: int):
        self.control, self.buffer_size, self.seed = control, buffer_size, seed
        self.people = Population(clients, seed, True, 0.0)
        self._opened = -1
        self._used = 0
        self._starts: list[Event] = []
        self._finishes: list[Event] = []
        self._taus: dict[int, np.ndarray] = {}

    def next(self, version: int) -> Event:
        if version != self._opened:
            self._opened = version
            self._open(version)
        if self._starts:
            return self._starts.pop()
        return heapq.heappop(self._finishes)

    def _open(self, version: int) -> None:
        """All uploads that start from this version, whichever later step uses them."""
        starts = []
        for step in range(version, version + self.control.max + 1):
            begins = np.maximum(0, step - self._staleness(step))
            for k in np.flatnonzero(begins == version).tolist():
                client = self.people.draw()
                assert client is not None, "clients are drawn with replacement"
                participation, _ = self.people.start(client)
                n = step * self.buffer_size + k
                t_s = step + (k + 1) / (self.buffer_size + 1)
                finish = Event(t_s, FINISH, n, client, participation, float(version), True)
                heapq.heappush(self._finishes, finish)
                starts.append(finish._replace(t_s=float(version), kind=START))
        self._taus.pop(version, None)
        self._starts = starts[::-1]

    def _staleness(self, step: int) -> np.ndarray:
        """τ of the K uploads of one step."""
        if step not in self._taus:
            if self.control.kind == "constant":
                self._taus[step] = np.full(self.buffer_size, self.control.max)
            else:
                g = np.random.Generator(np.random.Philox(key=derive(self.seed, Stream.SCHEDULE, 1, step)))
                self._taus[step] = g.integers(0, self.control.max + 1, self.buffer_size)
        return self._taus[step]


def schedule(clock: ClockConfig, *, clients: int, seed: int, buffer_size: int, synchronous: bool) -> Schedule:
    """The schedule that the settings describe."""
    if clock.staleness is not None:
        return ControlledStaleness(clock.staleness, clients, seed, buffer_size)
    if synchronous:
        return Rounds(clock, clients, seed, clock.concurrency or buffer_size)
    if clock.start == "always":
        return AlwaysTraining(clock, clients, seed)
    return Arrivals(clock, clients, seed, default_concurrency=min(clients, 10 * buffer_size))
