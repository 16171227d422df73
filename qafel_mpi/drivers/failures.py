"""A client's failure is an outcome of the run; the traceback behind it is shown where it happened."""

from __future__ import annotations

import sys
import traceback


def show_cause(error: Exception) -> None:
    """On stderr, also of a rank that is otherwise silent: where in the user's code the error arose."""
    if error.__cause__ is not None:
        traceback.print_exception(error.__cause__, file=sys.__stderr__)
