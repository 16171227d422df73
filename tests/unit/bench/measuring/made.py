"""Samples, rows and results to test with."""

from __future__ import annotations

import numpy as np

from qafel_mpi.bench.measuring.result import Result, Row
from qafel_mpi.bench.measuring.timing import Samples


def samples(values, loops: int = 1000) -> Samples:
    return Samples(np.asarray(values, dtype=float), np.array([1.0]), loops)


def row(values, reference=None, **fields) -> Row:
    against = None if reference is None else samples(reference)
    return Row("p2p", fields.pop("parameters", {"bytes": 8}), samples(values), against, "raw", **fields)


def steady(median: float = 1e-5, n: int = 200, seed: int = 0) -> np.ndarray:
    return median * (1 + 0.01 * np.random.default_rng(seed).standard_normal(n))


def uneven() -> np.ndarray:
    """From 0.8 to 1.2 of 10 µs, evenly spread."""
    return 1e-5 * np.random.default_rng(3).permutation(np.linspace(0.8, 1.2, 200))


HOSTS = [{"host": f"n{i}", "cpu": "c", "memory_bytes": 8 << 30, "ranks": 1} for i in range(1, 7)]


def result() -> Result:
    """Two rows, the first with a reference, from six hosts."""
    rows = [
        row(
            steady(), steady(2e-5), wrong=0, bytes_moved=8.0, parameters={"operation": "latency", "bytes": 8}
        ),
        row(steady(3e-3), derived={"hidden_share": 0.9}, parameters={"operation": "x", "bytes": 16}),
    ]
    about = {"host": "n1", "hosts": HOSTS, "binding": ["0", "1"], "seeds": {"content": 1}}
    return Result("p2p", rows, about | {"thread_level": "multiple", "interconnect": {"settings": {}}})
