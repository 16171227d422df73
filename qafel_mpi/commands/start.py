"""Where the console script `qafel-mpi` begins: until all modules are loaded, Ctrl-C ends it without a word."""

from __future__ import annotations

import signal
from importlib import import_module


def main() -> None:
    """Load the command, and call it. Python's own answer to Ctrl-C would be a traceback through what it imports."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # else it is ignored, as in the background of a script
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = import_module("qafel_mpi.commands.app")
    signal.signal(signal.SIGINT, before)
    command.main()
