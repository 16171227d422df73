"""What the server refuses of a client, or uses in part: updates that are no numbers, and updates of absurd norm."""

from __future__ import annotations

from typing import NamedTuple

from qafel_mpi.algorithms.config import ServerConfig

REJECTED, CLIPPED, WRAPPED = "update rejected", "update clipped", "wrapped around"


class Finding(NamedTuple):
    """An update that was not used as it came. at: its place among those received together. why: with the numbers."""

    at: int
    kind: str  # REJECTED, CLIPPED, or WRAPPED
    why: str


class Rejected(ValueError):
    """An update that may not reach the buffer; the message says why."""


def factor(config: ServerConfig, norm: float) -> tuple[float, str]:
    """(what to scale an update of this 2-norm by, why): 1 and "" where no bound says otherwise. Raises Rejected.

    >>> factor(ServerConfig(clip_norm=2), 8.0)
    (0.25, 'norm 8, scaled down to server.clip_norm = 2')
    """
    if config.reject_norm is not None and not norm <= config.reject_norm:
        raise Rejected(f"norm {norm:.4g}, above server.reject_norm = {config.reject_norm:g}")
    if config.clip_norm is not None and norm > config.clip_norm:
        return (
            config.clip_norm / norm,
            f"norm {norm:.4g}, scaled down to server.clip_norm = {config.clip_norm:g}",
        )
    return 1.0, ""
