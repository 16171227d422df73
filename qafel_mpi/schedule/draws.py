"""Random numbers of the schedule, drawn in blocks: singly they would cost more than the event they belong to."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.schedule.config import DurationConfig

BLOCK = 4096


def generator(seed: int, stream: Stream) -> np.random.Generator:
    """The generator of one stream: what it gives depends on the run's seed alone."""
    return np.random.Generator(np.random.Philox(key=derive(seed, stream)))


def blocks(draw: Callable[[int], np.ndarray]) -> Iterator[float]:
    """draw(n) in blocks, one value after the other, as Python numbers."""
    while True:
        yield from draw(BLOCK).tolist()


def durations(config: DurationConfig, seed: int) -> Iterator[float]:
    """Training times in virtual seconds, before a client's own speed. Raises OSError or ValueError for a bad file."""
    g = generator(seed, Stream.DURATION)
    draws: dict[str, Callable[[int], np.ndarray]] = {
        "half-normal": lambda n: np.abs(g.standard_normal(n)) * config.scale,
        "exponential": lambda n: g.standard_exponential(n) * config.scale,
        "log-normal": lambda n: np.exp(g.standard_normal(n) * config.sigma) * config.scale,
        "constant": lambda n: np.full(n, config.scale),
    }
    if config.path is not None:
        measured = np.loadtxt(config.path, dtype=float, ndmin=1)
        if not len(measured) or not (np.isfinite(measured) & (measured > 0)).all():
            raise ValueError(f"{config.path}: durations are positive numbers, one a line")
        draws["file"] = lambda n: g.choice(measured, n) * config.scale
    return blocks(draws[config.kind])


def speeds(config: DurationConfig, clients: int, seed: int) -> np.ndarray | None:
    """Each client's own factor on its durations, (clients,) float32; None where all are alike."""
    if not config.speed_sigma:
        return None
    g = np.random.Generator(np.random.Philox(key=derive(seed, Stream.DURATION, 1)))
    return np.exp(g.standard_normal(clients, dtype=np.float32) * np.float32(config.speed_sigma))


def gaps(rate: float, poisson: bool, seed: int) -> Iterator[float]:
    """Times between starts, mean 1/rate."""
    if not math.isfinite(rate) or rate <= 0:
        raise ValueError(f"a start rate of {rate}: it must be positive")
    g = generator(seed, Stream.SCHEDULE)
    if poisson:
        return blocks(lambda n: g.standard_exponential(n) / rate)
    return blocks(lambda n: np.full(n, 1.0 / rate))
