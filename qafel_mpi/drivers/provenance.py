"""What a trace says of where it comes from."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from qafel_mpi.transport import placement

PACKAGES = ("qafel-mpi", "torch", "numpy", "mpi4py", "h5py", "numba")
SCHEDULER_PREFIXES = (
    "SLURM_JOB_",
    "SLURM_NNODES",
    "SLURM_NTASKS",
    "SLURM_CPUS_PER_TASK",
    "PBS_JOBID",
    "LSB_JOBID",
)


def provenance(command_line: list[str]) -> dict[str, Any]:
    """Host, processor, MPI, versions, scheduler, git state and command line, JSON-able."""
    commit, dirty = git_state()
    return {
        "command_line": " ".join(command_line),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "cpu": placement.cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "mpi_library": placement.mpi_library(),
        "scheduler": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SCHEDULER_PREFIXES)},
    }


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


def git_state() -> tuple[str, bool]:
    """(commit, whether files differ from it) of the checkout that runs; ("", False) for an installed package."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != here.parents[1]:
            return "", False  # installed inside somebody else's repository
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return "", False
