"""A training that is abandoned, because the run ends: between two of its steps."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

GRACE_SECONDS = 2.0  # a training that is about to end may do so


class Stopped(BaseException):
    """The run has ended: a training is abandoned. No Exception, which code of the user's own might catch."""


class Guarded:
    """A `poll` for trainings that remembers what it has raised: that is no failure of the training."""

    def __init__(self, poll: Callable[[], None]):
        self._poll = poll
        self.error: Exception | None = None

    def __call__(self) -> None:
        try:
            self._poll()
        except Exception as error:
            self.error = error
            raise


class StopsWhen:
    """A `poll` for trainings: raises Stopped where one goes on for grace_s after `over` was first true."""

    def __init__(self, over: Callable[[], bool], *, grace_s: float = GRACE_SECONDS):
        self._over, self._grace_s = over, grace_s
        self._since_s: float | None = None

    def __call__(self) -> None:
        if not self._over():
            return
        now_s = perf_counter()
        self._since_s = now_s if self._since_s is None else self._since_s
        if now_s - self._since_s >= self._grace_s:
            raise Stopped
