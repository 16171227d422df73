"""The one error of this folder, defined where strict readers are."""

from qafel_mpi.parsing import DataError

__all__ = ["DataError"]
