"""Packages of the extra 'analysis': imported where they are needed, with a message where they are missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class MissingExtra(RuntimeError):
    """A package of the extra 'analysis' is not installed."""


def extra(module: str) -> Any:
    """Import a module of the extra 'analysis'. Raises MissingExtra that says what to install."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(
            f"this needs {module.partition('.')[0]}, which is not installed: pip install 'qafel-mpi[analysis]'"
        ) from error
