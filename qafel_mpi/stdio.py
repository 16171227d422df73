"""stdout and stderr that fail nothing: a reader that has gone, a full disk, an encoding without our signs.

A run that has taken hours must not fail because its last lines can't be printed. What can't be written to stdout is
dropped, and stderr says so once; what an encoding lacks is written as an escape.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TextIO, cast

_originals: list[object] = []  # kept: as garbage they would close the descriptors


class _Descriptor(io.RawIOBase):
    """Bytes to a file descriptor; after the first that can't be written none are."""

    def __init__(self, descriptor: int, program: str, name: str):
        super().__init__()
        self._descriptor, self._program, self._label = descriptor, program, name
        self._lost = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        rest = memoryview(data).cast("B")
        size = len(rest)
        while rest and not self._lost:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # somebody else's setting of a pipe or terminal that we share
                select.select([], [self._descriptor], [])
            except OSError as error:
                self._lost = True
                self._say(error.strerror or str(error))
        return size

    def _say(self, why: str) -> None:
        if self._label == "stdout":  # who has lost stderr has nowhere to say it
            print(f"{self._program}: stdout can't be written ({why}); the rest is dropped", file=sys.stderr)


def make_steadfast(program: str) -> None:
    """Replace sys.stdout and sys.stderr by such streams. program: who speaks, for the message."""
    for name in ("stdout", "stderr"):
        steadfast = _steadfast(getattr(sys, name), program, name)
        if steadfast is not None:
            _originals.append(getattr(sys, name))
            setattr(sys, name, steadfast)
            setattr(sys, f"__{name}__", steadfast)


def _steadfast(stream: TextIO | None, program: str, name: str) -> TextIO | None:
    """None where the stream is to stay as it is: one that somebody else has put in its place."""
    if stream is None:  # the descriptor was closed before we began
        return open(os.devnull, "w", encoding="utf-8")
    try:
        descriptor = stream.fileno()
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return None
    buffer = io.BufferedWriter(cast("io.RawIOBase", _Descriptor(descriptor, program, name)))
    lines = name == "stderr" or stream.isatty()
    return io.TextIOWrapper(buffer, stream.encoding, errors="backslashreplace", line_buffering=lines)


def printable(text: str) -> str:
    r"""The text as UTF-8 can hold it: bytes of a file name that are no text become escapes.

    >>> printable(b"a\xff.h5".decode(errors="surrogateescape"))
    'a\\udcff.h5'
    """
    return text.encode(errors="backslashreplace").decode()
