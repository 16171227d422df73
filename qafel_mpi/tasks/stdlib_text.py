"""The source of the running Python's own standard library: real text that every machine has, by module.

A user is a top-level module or package: its files in the order of their paths, one after the other, cut to a number
of bytes. Authors, subjects and habits differ from module to module, so the users' distributions differ naturally.
The modules are those that the interpreter names (sys.stdlib_module_names), so nothing that was installed later is
among them. A module trains or tests by a hash of its name, on every machine alike.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from pathlib import Path

from qafel_mpi.parsing import visible
from qafel_mpi.tasks.errors import DataError

TEST_SHARE = 5  # one module in so many tests


def read_stdlib(most_bytes: int, root: Path | None = None) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Training and test text by module, at most `most_bytes` of each; files that can't be read are left out.

    root: of the library, if not this Python's. Raises DataError where it holds no source, as in a zip file.
    """
    root = root or Path(sysconfig.get_path("stdlib"))
    texts = {name: _source(root, name, most_bytes) for name in sorted(sys.stdlib_module_names)}
    train = {name: text for name, text in texts.items() if text and not held_out(name)}
    test = {name: text for name, text in texts.items() if text and held_out(name)}
    if not train or not test:
        raise DataError(f"data set stdlib-text: {root} holds too little of the standard library's source")
    return train, test


def held_out(module: str) -> bool:
    """Whether a module is one of those that test."""
    return hashlib.sha256(module.encode()).digest()[0] % TEST_SHARE == 0


def _source(root: Path, module: str, most_bytes: int) -> bytes:
    text = b""
    for path in [root / f"{module}.py", *_files(root / module)]:
        if len(text) >= most_bytes:
            break
        try:
            text += path.read_bytes()
        except OSError:
            continue
    return text[:most_bytes]


def _files(package: Path) -> list[Path]:
    """In the order of their paths, as texts: a data set's bytes depend on it."""
    return sorted(visible(package, "**/*.py"), key=Path.as_posix)
