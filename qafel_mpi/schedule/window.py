"""The grace window of a buffer that has its quorum, on the run's clock: virtual or real."""

from __future__ import annotations

from math import inf

from qafel_mpi.kernels.state import State


class GraceWindow:
    """It opens when the buffer has its quorum, and closes `seconds` later or when the buffer has made its step.

    due_s: when it closes; infinity where none is open. It reads no clock: who has one says what time it is.

    >>> window = GraceWindow(0.5)
    >>> window.look(True, 3.0)
    >>> window.look(True, 3.4)
    >>> window.due_s
    3.5
    >>> window.look(False, 3.5), window.due_s
    (None, inf)
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.due_s = inf

    def look(self, quorate: bool, now_s: float) -> None:
        """quorate: whether the buffer has its quorum, and is not full (Server.quorate)."""
        if not quorate:
            self.due_s = inf
        elif self.due_s == inf:
            self.due_s = now_s + self.seconds

    def state(self) -> State:
        return {"open": self.due_s < inf, "due_s": self.due_s if self.due_s < inf else 0.0}

    def restore(self, state: State) -> None:
        self.due_s = float(state["due_s"]) if state["open"] else inf
