"""What every benchmark's random numbers come from, for the provenance of its files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from qafel_mpi.bench import (
    broadcast,
    codec,
    data,
    ingest,
    overlap,
    p2p,
    server,
    sizes,
    startup,
    tracing,
    virtual,
)
from qafel_mpi.bench.peers import work

Seeds = Mapping[str, int | str]
OF_A_RANK = "the sender's rank"  # of bytes that ranks.pattern makes

_SEEDS: Mapping[str, Callable[[], Seeds]] = {
    "codec": lambda: {"vector": codec.SEED},
    "server": lambda: {"vector": server.SEED},
    "p2p": lambda: {"vector": p2p.SEED, "content": OF_A_RANK},
    "ingest": lambda: {"vector": f"{ingest.SEED} + the client's rank"},
    "broadcast": lambda: {"vector": broadcast.SEED},
    "backoff": lambda: {"content": OF_A_RANK},
    "progress": lambda: {"content": 0},
    "overlap": lambda: {"run": overlap.experiment(1).seed},
    "tracing": lambda: {"run": tracing.experiment(1).seed},
    "data": lambda: {"data": data.experiment(1).seed},
    "peers": lambda: {"run": work.SEED},
    "startup": lambda: {"run": startup.experiment().seed},
    "sizes": lambda: {"run": sizes.experiment(10_000, "qafel", 1).seed},
    "checkpoint": lambda: {"run": sizes.experiment(10_000, "qafel", 1).seed},
    "chaos": lambda: {"faults": "--seed"},
    "virtual": lambda: {
        "cnn": virtual.cnn_experiment(1).seed,
        "logistic": virtual.logistic_experiment(1).seed,
    },
}


def seeds(benches: Iterable[str]) -> dict[str, Seeds]:
    """By benchmark."""
    return {name: _SEEDS[name]() for name in benches}
