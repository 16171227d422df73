"""Random numbers of the schedule, drawn in blocks: singly they would cost more than the event they belong to."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator
from operator import length_hint
from statistics import NormalDist

import numpy as np

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.state import State
from qafel_mpi.parsing import DataError, lines, real
from qafel_mpi.schedule.config import DurationConfig

BLOCK = 4096


def generator(seed: int, stream: Stream, owner: int = 0, counter: int = 0) -> np.random.Generator:
    """The generator of one stream: what it gives depends on the run's seed alone."""
    return np.random.Generator(np.random.Philox(key=derive(seed, stream, owner, counter)))


class Draws:
    """draw(n) in blocks, one value after the other, as Python numbers.

    generator: the one that `draw` draws from. What is kept of it is where it stood before the block.
    """

    def __init__(self, generator: np.random.Generator, draw: Callable[[int], np.ndarray]):
        self._generator, self._draw = generator, draw
        self._before: State = dict(generator.bit_generator.state)
        self._block: Iterator[float] = iter(())
        self._drawn = 0  # values in the block

    def __next__(self) -> float:
        for value in self._block:
            return value
        self._before = dict(self._generator.bit_generator.state)
        return self._next_block()

    def _next_block(self) -> float:
        self._block, self._drawn = iter(self._draw(BLOCK).tolist()), BLOCK
        return next(self._block)

    def state(self) -> State:
        return {"generator": self._before, "used": self._drawn - length_hint(self._block)}

    def restore(self, state: State) -> None:
        self._before = state["generator"]
        self._generator.bit_generator.state = self._before
        self._block, self._drawn = iter(()), 0
        if used := int(state["used"]):
            self._next_block()
            for _ in range(used - 1):
                next(self._block)


def durations(config: DurationConfig, seed: int) -> Draws:
    """Training times in virtual seconds, before a client's own speed. Raises DataError for a bad file."""
    g = generator(seed, Stream.DURATION)
    draws: dict[str, Callable[[int], np.ndarray]] = {
        "half-normal": lambda n: np.abs(g.standard_normal(n)) * config.scale,
        "exponential": lambda n: g.standard_exponential(n) * config.scale,
        "log-normal": lambda n: np.exp(g.standard_normal(n) * config.sigma) * config.scale,
        "constant": lambda n: np.full(n, config.scale),
    }
    if config.kind == "file":
        recorded = _recorded(config)
        draws["file"] = lambda n: g.choice(recorded, n)
    return Draws(g, draws[config.kind])


def mean_duration(config: DurationConfig) -> float:
    """E[duration] in virtual seconds. Raises DataError for a bad file."""
    mean = config.mean()
    return float(_recorded(config).mean()) if mean is None else mean


def _recorded(config: DurationConfig) -> np.ndarray:
    """The durations of a file, scaled."""
    assert config.path is not None, "checked when the settings were read"
    values = []
    for place, fields in lines(config.path):
        for text in fields:
            values.append(real(text, place, "duration"))
            if values[-1] <= 0:
                raise place.error(f"duration {text!r} is not positive")
    if not values:
        raise DataError(f"{config.path}: no durations; it holds positive numbers, one a line")
    return np.array(values) * config.scale


def speeds(config: DurationConfig, clients: int, seed: int) -> array[float] | None:
    """Each client's own factor on its durations, float32, with mean 1 over the clients; None where all are alike.

    Mean 1: however far the speeds are spread, the same rate gives the same mean concurrency.
    """
    if not config.speed_sigma:
        return None
    g = generator(seed, Stream.DURATION, owner=1)
    logs = g.standard_normal(clients, dtype=np.float32)
    if trend := config.speed_trend:
        logs = np.float32(trend) * _normal_scores(clients) + np.float32(math.sqrt(1 - trend**2)) * logs
    factors = np.exp(logs * np.float32(config.speed_sigma))
    factors /= factors.mean(dtype=np.float64)
    return array("f", factors.tobytes())


def _normal_scores(count: int) -> np.ndarray:
    """What `count` numbers of a standard normal are in order, near enough: float32, rising.

    >>> _normal_scores(3).round(2)
    array([-0.97,  0.  ,  0.97], dtype=float32)
    """
    normal = NormalDist()
    return np.array([normal.inv_cdf((i + 0.5) / count) for i in range(count)], dtype=np.float32)


def gaps(rate: float, poisson: bool, seed: int) -> Draws:
    """Times between starts, mean 1/rate. rate: starts per virtual second, positive."""
    if not math.isfinite(rate) or rate <= 0:
        raise ValueError(f"a start rate of {rate}: it must be positive")
    g = generator(seed, Stream.SCHEDULE)
    if poisson:
        return Draws(g, lambda n: g.standard_exponential(n) / rate)
    return Draws(g, lambda n: np.full(n, 1.0 / rate))
