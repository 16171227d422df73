"""One bad file among many does not spoil the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qafel_analysis.read.extras import MissingExtra

from qafel_mpi.trace.reader import TraceError


def shown(path: Path | str) -> str:
    """A path as a file can hold it: bytes in its name that are no UTF-8 become escapes."""
    return str(path).encode(errors="backslashreplace").decode()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """What goes wrong while a trace is read becomes a TraceError with the file's name.

    The reader names what it can't read; a file may also be read and make no sense: ranks that are not there,
    attributes of another type. Then the error's own words have to do. Errors of writing pass.
    """
    try:
        yield
    except (TraceError, MissingExtra):
        raise
    except OSError as error:
        if error.filename is None or not Path(str(error.filename)).is_relative_to(path):
            raise
        raise TraceError(f"{error.filename}: {error.strerror}") from error
    except Exception as error:
        raise TraceError(
            f"{path}: damaged: its contents make no sense ({type(error).__name__}: {error})"
        ) from error
