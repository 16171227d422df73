"""Optional packages: imported where they are needed, with a message where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtra(RuntimeError):
    """A package of an extra of qafel-mpi is not installed."""


def extra(module: str, name: str = "analysis") -> Any:
    """Import a module of the extra of this name. Raises MissingExtra that says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].strip("_")
        raise MissingExtra(
            f"this needs {package}, which is not installed: pip install 'qafel-mpi[{name}]'"
        ) from error
