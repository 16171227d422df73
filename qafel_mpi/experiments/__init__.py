"""The named experiments: one TOML file each, with a one-line description at its top."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names that `qafel-mpi run` knows, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def path_of(name: str) -> Path:
    """The file of a named experiment. Raises KeyError for a name that is not one of names()."""
    if name not in names():
        raise KeyError(name)
    return FOLDER / f"{name}.toml"


def tables(name: str) -> dict[str, Any]:
    """A named experiment's file as nested dicts, unchecked: enough for a list, and quick."""
    return tomllib.loads(path_of(name).read_text(encoding="utf-8"))
