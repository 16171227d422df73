"""What messages cost a client that trains meanwhile: arithmetic on participations, with and without messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from qafel_mpi.bench.measuring.timing import Interval, Samples

WARMUPS = 3  # participations of a client, of each run
RESAMPLES = 2000
SEED = 20230801  # of the bootstrap: the same samples always give the same intervals


@dataclass(frozen=True)
class Participations:
    """One client in one wall run, and the same client in the run without messages beside it. Seconds, (n,) each."""

    begun: np.ndarray  # on a clock that goes on from one run to the next
    periods: np.ndarray  # from one training's beginning to the next's
    communication: np.ndarray  # of the messages posted meanwhile, either way
    hidden: np.ndarray  # of it, inside the client's trainings
    alone: np.ndarray  # periods without messages

    def __len__(self) -> int:
        return len(self.begun)

    def cut(self, begin: int, end: int | None = None) -> Participations:
        return Participations(*(getattr(self, field.name)[begin:end] for field in fields(self)))


@dataclass(frozen=True)
class Exposure:
    """Over all participations, each with its 95% bootstrap interval."""

    exposed_s: float  # by how much longer a participation takes with messages, mean
    exposed_interval: Interval
    exposed_share: float  # of the communication
    exposed_share_interval: Interval
    hidden_share: float  # of the communication, by its spans
    hidden_share_interval: Interval
    communication_s: float  # a participation, mean


def samples(measured: Sequence[Participations]) -> tuple[Samples, Samples]:
    """Periods with and without messages, as a row has them: in the order of time, all clients', warm-ups apart."""

    def in_order(parts: Sequence[Participations]) -> tuple[np.ndarray, np.ndarray]:
        order = np.argsort(np.concatenate([own.begun for own in parts]), kind="stable")
        return (
            np.concatenate([own.periods for own in parts])[order],
            np.concatenate([own.alone for own in parts])[order],
        )

    warm, warm_alone = in_order([own.cut(0, WARMUPS) for own in measured])
    periods, alone = in_order([own.cut(WARMUPS) for own in measured])
    return Samples(periods, warm), Samples(alone, warm_alone)


def exposure(measured: Sequence[Participations]) -> Exposure:
    """Without each client's warm-ups. Resampled are the participations of each client in each run: what differs
    between clients, or from run to run, is on both sides."""
    kept = [own.cut(WARMUPS) for own in measured if len(own) > WARMUPS]
    rng = np.random.default_rng(SEED)
    drawn = np.zeros((4, RESAMPLES))
    for own in kept:
        with_messages, without = rng.integers(0, len(own), (2, RESAMPLES, len(own)))
        drawn += [
            own.periods[with_messages].sum(axis=1),
            own.alone[without].sum(axis=1),
            own.communication[with_messages].sum(axis=1),
            own.hidden[with_messages].sum(axis=1),
        ]
    found = np.array(
        [[sum(part.sum() for part in (getattr(own, name) for own in kept))] for name in _SUMMED], dtype=float
    )
    count = sum(map(len, kept))
    exposed, exposed_share, hidden_share = _ratios(found, count)
    intervals = [_interval(values) for values in _ratios(drawn, count)]
    return Exposure(
        float(exposed[0]),
        intervals[0],
        float(exposed_share[0]),
        intervals[1],
        float(hidden_share[0]),
        intervals[2],
        float(found[2, 0]) / count,
    )


_SUMMED = ("periods", "alone", "communication", "hidden")


def _ratios(sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """sums: (4, n), of _SUMMED. (exposed seconds a participation, exposed share, hidden share), (n,) each."""
    periods, alone, communication, hidden = sums
    exposed, some = periods - alone, np.maximum(communication, 1e-12)
    return exposed / count, exposed / some, np.where(communication > 0, hidden / some, 1.0)


def _interval(drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)
