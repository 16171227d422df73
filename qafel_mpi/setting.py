"""What a setting says of itself beside its type, bounds and description.

A config model gives these words to pydantic's `json_schema_extra`:

    momentum: float = Field(0.0, ge=0, description="…", json_schema_extra=BOTH | only_with(optimizer="sgd"))

config_listing.py turns them into `qafel-mpi settings` and docs/settings.md.
"""

from __future__ import annotations

from typing import Any

# The clock on which a setting has an effect.
BOTH: dict[str, Any] = {"clock": "both"}
WALL: dict[str, Any] = {"clock": "wall"}
VIRTUAL: dict[str, Any] = {"clock": "virtual"}


def takes(values: str) -> dict[str, Any]:
    """The values that a setting takes, in words, where its type does not tell."""
    return {"values": values}
