"""What a rank does while nothing arrives, and how it says that it waits."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TextIO

SPINS = (
    1000  # polls before the core is offered to others: some 0.3 ms, longer than a small message is waited for
)
SAID = 8  # ranks that a message names


class WaitedTooLongError(Exception):
    """Something was waited for in vain for longer than the user allows; the message says who waited for whom."""

    def __init__(self, what: str, limit_s: float):
        super().__init__(f"{what}; transport.watchdog_seconds = {limit_s:g} allows no more")


class Backoff:
    """Neither burns a core that another rank needs, nor costs latency where cores are free.

    crowded: ranks on this host outnumber its cores. Then a rank that finds nothing sleeps, 20 µs at first and
    up to `longest_s`; else it yields and polls again.
    moved_s: when what is waited for last came nearer, by perf_counter.
    """

    def __init__(self, *, crowded: bool, longest_s: float = 500e-6):
        self.crowded, self.longest_s = crowded, longest_s
        self._idle = 0
        self.moved_s = time.perf_counter()

    def reset(self) -> None:
        """Something was found: more may follow at once. It need not be what is waited for."""
        self._idle = 0

    def moved(self) -> None:
        """What is waited for has come nearer."""
        self.reset()
        self.moved_s = time.perf_counter()

    def pause(self) -> None:
        self._idle += 1
        if self._idle < SPINS and not self.crowded:
            return
        os.sched_yield()
        if self.crowded:
            time.sleep(min(20e-6 * self._idle, self.longest_s))


def wait_until(
    ready: Callable[[], bool],
    what: Callable[[], str],
    *,
    patience_s: float,
    backoff: Backoff,
    limit_s: float = float("inf"),
) -> None:
    """Poll `ready` until it holds; after every `patience_s` say on stderr what is waited for.

    what: in words; empty where this rank leaves it to others to say. Raises WaitedTooLongError where nothing
    has moved for limit_s (Backoff.moved); a rank that has no words leaves others as much time again to say it.
    """
    begun = said = time.perf_counter()
    backoff.moved()
    while not ready():
        backoff.pause()
        now = time.perf_counter()
        if now - said > patience_s:
            said = now
            if text := what():
                print(f"qafel-mpi: {text} ({now - begun:.0f} s so far)", file=_stderr(), flush=True)
        if now - backoff.moved_s > limit_s:
            text = what()
            if text or now - backoff.moved_s > 2 * limit_s:
                waited = f"{text or 'it waits, and does not know for whom'} ({now - begun:.0f} s so far)"
                raise WaitedTooLongError(waited, limit_s)
    backoff.reset()


def sleep_until(ready: Callable[[], object], nap_s: float) -> None:
    """Sleep between two looks: a rank that takes no part must not cost a core."""
    while not ready():
        time.sleep(nap_s)


def some_ranks(ranks: Iterable[int]) -> str:
    """Ranks in words: the first eight.

    >>> some_ranks([3]), some_ranks({5, 4}), some_ranks(range(1, 12))
    ('rank 3', 'ranks 4, 5', 'ranks 1, 2, 3, 4, 5, 6, 7, 8 and 3 more')
    """
    ordered = sorted(ranks)
    first = ", ".join(map(str, ordered[:SAID]))
    more = f" and {len(ordered) - SAID} more" if len(ordered) > SAID else ""
    return f"rank{'s' if len(ordered) > 1 else ''} {first}{more}"


def _stderr() -> TextIO:
    """Ranks that the command has muted say this all the same: the one that they wait for can't."""
    muted = getattr(sys.stderr, "name", "") == os.devnull
    return sys.__stderr__ if muted and sys.__stderr__ is not None else sys.stderr
