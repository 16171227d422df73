"""A busy neighbour: a process that spins on the core that this one is bound to."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Ends by itself when its parent is gone.
_SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))"


@contextmanager
def neighbour() -> Iterator[None]:
    """Bind this process to one of its cores and keep that core busy meanwhile. Linux."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})  # the child inherits it
    spinner = subprocess.Popen([sys.executable, "-c", _SPIN])
    try:
        yield
    finally:
        spinner.kill()
        spinner.wait()
        os.sched_setaffinity(0, before)
