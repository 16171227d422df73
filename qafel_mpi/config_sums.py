"""What sums of whole numbers (codec fixed) need of the other settings: whole weights, and room in 16 bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.codecs.fixed import SUM_LIMIT

_WHOLE = ("constant", "cutoff")  # staleness weights that are 0 or 1


class Experiment(Protocol):
    """What is needed here of config.py's."""

    @property
    def server(self) -> ServerConfig: ...

    @property
    def staleness(self) -> StalenessConfig: ...

    @property
    def uplink(self) -> CodecConfig: ...


def impossible_sums(exp: Experiment) -> Iterator[str]:
    """Why uploads of whole numbers could not be added up as such."""
    fixed = [one.bits for one in (exp.uplink, *exp.uplink.rules) if one.codec == "fixed"]
    if not fixed:
        return
    server, why = exp.server, "uplink.codec = 'fixed' adds uploads up as whole numbers"
    if exp.staleness.weight not in _WHOLE:
        yield (
            f"staleness.weight = '{exp.staleness.weight}' gives weights that are fractions, and {why}: set "
            "staleness.weight=constant or cutoff, or take another codec"
        )
    if server.weighting != "uniform":
        yield (
            f"server.weighting = '{server.weighting}' gives weights without a bound, and {why} in 16 bits: set "
            "server.weighting=uniform, or take another codec"
        )
    if server.clip_norm is not None:
        yield f"server.clip_norm scales updates by fractions, and {why}: leave it out, or take another codec"
    # What a client sends may be any code, also the one that no encoder writes.
    each = 2 ** (max(fixed) - 1) * (2 if server.calibration == "clients" else 1)
    if (most := SUM_LIMIT // each) < server.buffer_size:
        yield (
            f"server.buffer_size = {server.buffer_size}: {why} of 16 bits, which have room for {most} uploads of "
            f"{max(fixed)} bits: set server.buffer_size to {most} at most, or fewer uplink.bits"
        )
