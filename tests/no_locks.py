"""A file system that cannot lock, for a child process: flock and POSIX locks fail as on some network file systems."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <fcntl.h>
int flock(int fd, int how) { errno = NUMBER; return -1; }
static int passed_on(const char *name, int fd, int command, void *argument) {
    if (command == F_SETLK || command == F_SETLKW) { errno = NUMBER; return -1; }
    int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
    return real(fd, command, argument);
}
#define PASS(name) int name(int fd, int command, ...) { \\
    va_list list; va_start(list, command); void *argument = va_arg(list, void *); va_end(list); \\
    return passed_on(#name, fd, command, argument); }
PASS(fcntl)
PASS(fcntl64)
"""


def without_locks(folder: Path, number: int) -> dict[str, str]:
    """The environment in which every lock fails with this errno."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = folder / "no_locks.c", folder / f"no_locks-{number}.so"
    source.write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", f"-DNUMBER={number}", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return {"LD_PRELOAD": str(library)}
