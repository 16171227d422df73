"""Compiled kernels are kept where they can be; where not, that costs time and one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

KERNEL = """
import resource, sys
from qafel_mpi.kernels.numba.jit import jit
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))

@jit
def twice(x):
    return 2 * x

@jit
def thrice(x):
    return 3 * x

print(twice(4), thrice(5))
"""


def compiled(folder: Path, *limit: str) -> tuple[str, str]:
    script = folder / "kernel.py"
    script.write_text(KERNEL)
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, str(script), *limit], env=environment, capture_output=True, text=True, timeout=100
    )
    return done.stdout, done.stderr


def test_kernels_are_compiled_where_the_disk_is_full_and_kept_when_there_is_room(tmp_path: Path) -> None:
    result, said = compiled(tmp_path, "100")  # a limit that acts like a disk with no room
    assert result == "8 15\n"
    assert said.count("qafel-mpi: compiled kernels can't be kept in") == len(said.splitlines()) == 1
    assert compiled(tmp_path) == ("8 15\n", "")
    kept = list((tmp_path / "cache").rglob("*.nbc"))
    assert len(kept) == 2
    for file in kept:
        file.write_bytes(b"")  # what a full disk may leave
    assert compiled(tmp_path)[0] == "8 15\n"
