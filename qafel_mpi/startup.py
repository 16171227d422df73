"""The phases of a process's start-up that have passed: `qafel-mpi bench startup` reads them. A mark takes 2 µs."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple


class Mark(NamedTuple):
    """The end of a phase."""

    phase: str
    at_s: float  # since the epoch, as a process's beginning is known
    processor_s: float  # of this process since it began, all threads
    opened: int  # files that Python has opened since `count_opened`


MARKS: list[Mark] = []
_opened: list[str] = []


def passed(phase: str) -> None:
    """A phase of the start-up ends here. An empty one is nobody's."""
    MARKS.append(Mark(phase, time.time(), time.process_time(), len(_opened)))


def count_opened() -> None:
    """Count the files that Python opens from now on: not what shared libraries load themselves."""
    sys.addaudithook(_hear)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        _opened.append(event)
