"""The ranks of a simulated job: a greenlet each, of which one runs at a time, and the clock that they read."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import greenlet

from qafel_mpi.transport.backoff import Backoff

CALL_SECONDS = 1e-6  # a call of MPI


class Hang(Exception):
    """The job did not end in the time that it may take: who waited for what."""


class Killed(BaseException):
    """Raised inside a rank that dies: no handler of the program catches it."""


class World:
    """The scheduler. Each rank is runnable from `wake[rank]` on; which of those that are runs next is drawn.

    nap_s: the most that a rank sleeps which finds nothing to do. speeds: of the ranks' computing.
    """

    def __init__(self, seed: int, ranks: int, *, limit_s: float, nap_s: float, speeds: tuple[float, ...]):
        self.random = random.Random(seed)
        self.ranks, self.limit_s, self.nap_s = ranks, limit_s, nap_s
        self.now = 100.0  # seconds on the clock that all ranks read
        self.wake = [self.now] * ranks
        self.speeds = speeds
        self.running = -1
        self.results: dict[int, Any] = {}
        self.errors: dict[int, BaseException] = {}
        self.kill_at: dict[int, float] = {}
        self.died: dict[int, float] = {}  # when
        self._greenlets: dict[int, greenlet.greenlet] = {}
        self._main = greenlet.getcurrent()
        self.buried: Callable[[int], None] = lambda rank: None  # the network's: a rank has died
        self.move: Callable[[], float] = lambda: float("inf")  # the network's; returns when it moves next

    def run(self, programs: list[Callable[[], Any]]) -> None:
        """Run every rank's program to its end. Raises Hang."""
        end_s = self.now + self.limit_s
        for rank, program in enumerate(programs):
            self._greenlets[rank] = greenlet.greenlet(lambda r=rank, p=program: self._program(r, p))
        while self._greenlets:
            next_s = self.move()
            ready = [rank for rank in self._greenlets if self.wake[rank] <= self.now]
            if not ready:
                self.now = min(next_s, *(self.wake[rank] for rank in self._greenlets))
                if self.now > end_s:
                    raise Hang(f"ranks {sorted(self._greenlets)} still ran after {self.limit_s:.0f} s")
                continue
            if self.now > end_s:
                raise Hang(f"ranks {sorted(self._greenlets)} still ran after {self.limit_s:.0f} s")
            self.running = ready[0] if len(ready) == 1 else self.random.choice(ready)
            self._greenlets[self.running].switch()
            if self.errors:
                return  # a rank that raises ends the job: MPI_Abort

    def _program(self, rank: int, program: Callable[[], Any]) -> None:
        try:
            self.results[rank] = program()
        except Killed:
            self.died[rank] = self.now
            self.buried(rank)
        except BaseException as error:  # the job ends, as it does when a rank of a real one raises
            self.errors[rank] = error
        del self._greenlets[rank]

    def stop(self) -> None:
        """Unwind what still runs, so that no greenlet of a broken run is left behind."""
        for rank in list(self._greenlets):
            self.running = rank
            if self._greenlets[rank]:  # it has begun
                self._greenlets[rank].throw(Killed)
        self._greenlets.clear()

    def sleep(self, seconds: float) -> None:
        """The running rank lets others run, for so long at least."""
        rank = self.running
        self.wake[rank] = self.now + seconds / self.speeds[rank]
        self._main.switch()
        if self.now >= self.kill_at.get(rank, float("inf")):
            raise Killed

    def call(self) -> None:
        """The running rank calls MPI: it takes a moment, and another rank may run before it goes on."""
        self.now += CALL_SECONDS
        if self.random.random() < 0.2:
            self.sleep(0.0)

    def alive(self, rank: int) -> bool:
        return rank in self._greenlets


class Pauses(Backoff):
    """Pauses that let other ranks run. Made while modules read this world's clock."""

    def __init__(self, world: World):
        super().__init__(crowded=False)
        self.world = world

    def pause(self) -> None:
        self.world.sleep(self.world.random.random() * self.world.nap_s)


@contextmanager
def clock_of(world: World) -> Iterator[None]:
    """Every module of the package reads this world's clock, and sleeps on it."""

    def perf_counter() -> float:
        return world.now

    time = SimpleNamespace(perf_counter=perf_counter, monotonic=perf_counter, sleep=world.sleep)
    replaced: list[tuple[Any, str, Any]] = []
    for name, module in list(sys.modules.items()):
        if not name.startswith("qafel_mpi."):
            continue
        for attribute, value in (("perf_counter", perf_counter), ("sleep", world.sleep), ("time", time)):
            old = module.__dict__.get(attribute)
            if old is not None and getattr(old, "__module__", getattr(old, "__name__", "")) in ("time", None):
                replaced.append((module, attribute, old))
                setattr(module, attribute, value)
    try:
        yield
    finally:
        for module, attribute, old in replaced:
            setattr(module, attribute, old)
