"""The errors of this folder. DataError is defined where strict readers are."""

from qafel_mpi.parsing import DataError

__all__ = ["DataError", "TrainingError"]


class TrainingError(Exception):
    """A client's local training failed in the model, the loss or the training of the user's own.

    The message has the error and the line that raised it; the error itself is the cause.
    """
