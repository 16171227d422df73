"""The virtual clock of a server that asks: every so many seconds K clients, which answer with what they have."""

from __future__ import annotations

import numpy as np

from qafel_mpi.kernels.state import State, restore_array
from qafel_mpi.schedule.config import ClockConfig
from qafel_mpi.schedule.draws import durations, speeds
from qafel_mpi.schedule.events import FINISH, START, Event, restored, saved
from qafel_mpi.schedule.population import Population


class Pulls:
    """Events of questions: at each multiple of ask_seconds K different clients start and then finish.

    A client trains from one question to the next; start_s of an event is when it was asked before. How long all of
    its P steps would have taken is drawn for each, so that `shares` has, by (client, participation) of the last
    questions, the share of a training that there was time for, 1 at most.
    """

    def __init__(self, clock: ClockConfig, clients: int, seed: int, asked: int):
        self.period_s, self.asked = clock.ask_seconds, asked
        self.people = Population(clients, seed, replacement=False, dropout=clock.dropout)
        self._durations = durations(clock.duration, seed)
        self._speeds = speeds(clock.duration, clients, seed)
        self._asked_s = np.zeros(clients)  # when each was asked last
        self._due: list[Event] = []  # the last one first
        self._rounds = self._sequence = 0
        self.shares: dict[tuple[int, int], float] = {}

    def next(self, version: int) -> Event:
        if not self._due:
            self._ask()
        return self._due.pop()

    def _ask(self) -> None:
        self._rounds += 1
        t_s, events = self._rounds * self.period_s, []
        self.shares.clear()
        for _ in range(self.asked):
            client, participation, reports = self.people.begin()
            before_s, duration_s = float(self._asked_s[client]), next(self._durations)
            if self._speeds is not None:
                duration_s *= self._speeds[client]
            self.shares[client, participation] = (
                min(1.0, (t_s - before_s) / duration_s) if duration_s else 1.0
            )
            self._asked_s[client] = t_s
            self._sequence += 1
            events.append(Event(t_s, START, self._sequence, client, participation, before_s, reports))
        for event in events:
            self.people.finish(event.client)
        self._due = [*events, *(event._replace(kind=FINISH) for event in events)][::-1]

    def state(self) -> State:
        return {
            "people": self.people.state(),
            "durations": self._durations.state(),
            "asked_s": self._asked_s,
            "due": saved(self._due),
            "rounds": self._rounds,
            "sequence": self._sequence,
        }

    def restore(self, state: State) -> None:
        self.people.restore(state["people"])
        self._durations.restore(state["durations"])
        restore_array(self._asked_s, state["asked_s"])
        self._due = restored(state["due"])
        self._rounds, self._sequence = int(state["rounds"]), int(state["sequence"])
