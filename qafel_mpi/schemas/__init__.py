"""JSON Schemas of what the commands write as JSON, one file each; a schema's version is the last part of its $id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The outputs that have a schema, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def text(name: str) -> str:
    """The schema of that name as JSON. Raises KeyError for a name that is not one of names()."""
    if name not in names():
        raise KeyError(name)
    return (FOLDER / f"{name}.json").read_text(encoding="utf-8")


def schema(name: str) -> dict[str, Any]:
    """The schema of that name. Raises KeyError."""
    found: dict[str, Any] = json.loads(text(name))
    return found
