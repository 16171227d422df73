"""What a rank does while nothing arrives, and how it says that it waits."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

SPINS = (
    1000  # polls before the core is offered to others: some 0.3 ms, longer than a small message is waited for
)


class Backoff:
    """Neither burns a core that another rank needs, nor costs latency where cores are free.

    crowded: ranks on this host outnumber its cores. Then a rank that finds nothing sleeps, 20 µs at first and
    up to `longest_s`; else it yields and polls again.
    """

    def __init__(self, *, crowded: bool, longest_s: float = 500e-6):
        self.crowded, self.longest_s = crowded, longest_s
        self._idle = 0

    def reset(self) -> None:
        self._idle = 0

    def pause(self) -> None:
        self._idle += 1
        if self._idle < SPINS and not self.crowded:
            return
        os.sched_yield()
        if self.crowded:
            time.sleep(min(20e-6 * self._idle, self.longest_s))


def wait_until(
    ready: Callable[[], bool], what: Callable[[], str], *, patience_s: float, backoff: Backoff
) -> None:
    """Poll `ready` until it holds; after every `patience_s` say on stderr what is waited for."""
    begun = said = time.perf_counter()
    backoff.reset()
    while not ready():
        backoff.pause()
        now = time.perf_counter()
        if now - said > patience_s:
            said = now
            print(f"qafel-mpi: {what()} ({now - begun:.0f} s so far)", file=sys.stderr, flush=True)
    backoff.reset()


def sleep_until(ready: Callable[[], object], nap_s: float) -> None:
    """Sleep between two looks: a rank that takes no part must not cost a core."""
    while not ready():
        time.sleep(nap_s)
