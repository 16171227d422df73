"""Updates that the server did not use as they came: counted with their clients, and said."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qafel_mpi.algorithms.bounds import REJECTED, Finding
from qafel_mpi.kernels.state import State

SAID = 10  # lines on stderr; the trace has all
# A run in which the server uses nothing any more is over: so many rejected updates in a row, or so many a step's.
IN_A_ROW, STEPS_IN_A_ROW = 100, 10


class Origin(NamedTuple):
    """Where an update came from. rank, host: of who sent it. version: that its client started from."""

    client: int
    rank: int
    host: str
    version: int


class Rejections:
    """By kind and client, how many there were. reason: why the run has to end; empty while it may go on."""

    def __init__(self, record: Callable[[str, Origin, str], None], buffer_size: int):
        """record: kind, origin and why into the trace."""
        self.counts: Counter[tuple[str, int]] = Counter()
        self.reason = ""
        self._record = record
        self._found = 0  # of all kinds and clients
        self._in_a_row = self._until = 0  # rejected, the last of them the so-many-eth of all updates
        self._most = max(IN_A_ROW, STEPS_IN_A_ROW * buffer_size)

    def total(self, kind: str) -> int:
        return sum(count for (of, _), count in self.counts.items() if of == kind)

    def note(
        self, findings: Sequence[Finding], origins: Callable[[int], Origin], *, received: int, uploads: int
    ) -> None:
        """What the server found among `received` updates that it took together, the last of `uploads` so far.

        findings: by their place among these. origins: of the one with this index.
        """
        for finding in findings:
            origin = origins(finding.at)
            self.counts[finding.kind, origin.client] += 1
            self._found += 1
            self._record(finding.kind, origin, finding.why)
            self._say(finding, origin)
            if finding.kind == REJECTED:
                self._count(uploads - received + finding.at + 1, finding, origin)

    def _count(self, number: int, finding: Finding, origin: Origin) -> None:
        """A rejected update, the so-many-eth of all."""
        self._in_a_row = 1 + (self._in_a_row if number == self._until + 1 else 0)
        self._until = number
        if self._in_a_row >= self._most:
            last = f"the last one, of client {origin.client}, for {finding.why}"
            self.reason = f"failed: the last {self._in_a_row} updates were all rejected, {last}"

    def room(self, uploads: int) -> int:
        """So many more may come before the run has to end, behind these."""
        return self._most - (self._in_a_row if self._until == uploads else 0)

    def state(self) -> State:
        """Who had how many, and those in a row."""
        counts = [[kind, client, count] for (kind, client), count in self.counts.items()]
        return {"counts": counts, "in_a_row": self._in_a_row, "until": self._until}

    def restore(self, state: State) -> None:
        """Go on from there. Raises KeyError, TypeError or ValueError where it is no such state."""
        counts = {(str(kind), int(client)): int(count) for kind, client, count in state["counts"]}
        self.counts = Counter(counts)
        self._found = self.counts.total()
        self._in_a_row, self._until = int(state["in_a_row"]), int(state["until"])

    def _say(self, finding: Finding, origin: Origin) -> None:
        if self._found <= SAID:
            more = "; from now on only the trace says so" if self._found == SAID else ""
            print(
                f"qafel-mpi: {finding.kind}: client {origin.client} (rank {origin.rank} on {origin.host}): "
                f"{finding.why}{more}",
                file=sys.stderr,
                flush=True,
            )
