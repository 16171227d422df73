"""The command `seal`: new checksums for a trace file that was edited on purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qafel_mpi.config_text import ConfigError

EXAMPLES = "Example:\n\n  qafel-mpi seal runs/a.h5"


def seal(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A trace, RUN.h5.", exists=True, dir_okay=False)
    ],
) -> None:
    """Accept a trace that was edited on purpose: write the checksums of its bytes anew.

    Every trace ends with checksums, which all commands compare. Only use this on a file whose changes are your own:
    it makes damage look right.
    """
    from qafel_mpi.trace.seal import seal_anew

    try:
        seal_anew(file)
    except OSError as error:
        raise ConfigError([f"{file}: {error.strerror or error}; it is as it was"]) from None
    print(f"{file}: sealed")
