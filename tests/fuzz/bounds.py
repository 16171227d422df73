"""What every fuzz target is held to: no more memory, no more time, and how many inputs it gets."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hypothesis import HealthCheck, settings

MEGABYTES = 256
SECONDS = 20.0  # of one input: on a machine of any load a hang, not a slow test
FACTOR = int(os.environ.get("QAFEL_FUZZ", "1"))  # times as many inputs as in CI


def inputs(count: int) -> Callable[[Any], Any]:
    """So many inputs of a target in CI, more in `make fuzz`."""
    unhealthy = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
    return settings(max_examples=count * FACTOR, suppress_health_check=unhealthy)


@contextmanager
def bounded(megabytes: int = MEGABYTES, seconds: float = SECONDS) -> Iterator[None]:
    """MemoryError where the block asks for more address space than this, TimeoutError where it takes longer."""
    used = resource.getpagesize() * int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (used + (megabytes << 20), before[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.signal(signal.SIGALRM, handler)


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS:.0f} s for one input")
