"""How tests call the command, as a user does."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support import mpirun

COMMAND = shutil.which("qafel-mpi", path=str(Path(sys.executable).parent)) or "qafel-mpi"
SHORT = ("--set", "stop.uploads=30")
ENDLESS = ("--set", "stop.accuracy=1.0", "--set", "stop.uploads=100000000")
RANK = '__import__("qafel_mpi.commands.launcher").commands.launcher.launcher_rank()'


def qafel(
    *arguments: str,
    ranks: int = 0,
    cwd: Path,
    env: dict[str, str] | None = None,
    command: Sequence[str] = (COMMAND,),
) -> subprocess.CompletedProcess[str]:
    """Run qafel-mpi; ranks: 0 without mpirun. command: a program that stands for it."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    environment = os.environ | {"MPIEXEC_TIMEOUT": "290", "COLUMNS": "200"} | (env or {})
    return subprocess.run(
        [*launcher, *command, *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def own_words(stderr: str) -> str:
    """What the command said, without the launcher's own banner between lines of dashes."""
    return re.sub(r"^-{60,}\n.*?^-{60,}\n", "", stderr, flags=re.DOTALL | re.MULTILINE).strip()


SUITE = """
[task]
clients = 20
[stop]
uploads = 30
[variants.coarse.uplink]
bits = 2
[variants.plain]
algorithm = "fedbuff"
"""


def begin(*arguments: str, ranks: int, cwd: Path) -> subprocess.Popen[str]:
    """Start a run that has no end of its own, and return when it shows that it goes on."""
    launcher = [mpirun(), "-n", str(ranks)] if ranks else []
    process = subprocess.Popen(
        [*launcher, COMMAND, "run", "digits", *ENDLESS, *arguments],
        cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"MPIEXEC_TIMEOUT": "290"},
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if "uploads" in line:
            return process
    raise AssertionError(f"it ended: {process.wait()}")
