"""What the user's code raises is an outcome of the run; the traceback is shown where it happened."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from qafel_mpi.drivers.build import ERROR_BYTES
from qafel_mpi.own import said
from qafel_mpi.tasks.errors import DataError, TrainingError
from qafel_mpi.transport.frames import Frame, new_frame


class EvaluationError(Exception):
    """The evaluation of a model failed, on this rank or another; the message is the reason."""


def reason(error: Exception, who: str = "") -> str:
    """One line for the trace. The traceback goes to stderr, also of a rank that is otherwise silent.

    who: whose failure it is, for an error that does not say so itself.
    """
    ours = isinstance(error, TrainingError | DataError)
    cause = error.__cause__ if ours else error
    if cause is not None:
        traceback.print_exception(cause, file=sys.__stderr__)
    return str(error) if ours else f"{who}{said(error)}"


@contextmanager
def evaluating() -> Iterator[None]:
    """Around calls of the task's evaluation alone. Raises EvaluationError for whatever they raise."""
    try:
        yield
    except Exception as error:
        raise EvaluationError(reason(error)) from error


def frame_of(why: str) -> Frame:
    """A frame for a DIVERGED: the reason is its payload, and the header is the caller's to write."""
    text = np.frombuffer(why.encode()[:ERROR_BYTES], np.uint8)
    frame = new_frame(text.size)
    frame.payload[:] = text
    return frame
