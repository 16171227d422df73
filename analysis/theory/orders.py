"""The paper's claims on orders, beside runs: quantization × staleness × T, with effects, intervals and slopes.

Measured, by run: the ergodic mean of ‖∇f(x^t)‖² over the evaluated steps t < T (recorded with trace.gradient_norm),
δ_s = 1 − mean of ‖Q_s(v) − v‖²/‖v‖² over the steps, and δ_c likewise over the uploads (recorded with
trace.encoding_error). At each T, over the runs' seeds: the effect of quantizing,
the effect of staleness, and their interaction. Over T: the slope of each on log-log axes.

Claimed (ALGORITHM.md, "What the paper claims in theory"): the whole, and the errors of quantization and of
staleness, are O(1/√T) at most; the cross term of the two is O(1/T). Those are bounds for large T with constants that
are not known here. Everything else on this page is this program's own way to look at runs, not the paper's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from qafel_analysis.read.rows import row_of
from qafel_analysis.read.settings import differences
from qafel_analysis.tables.intervals import Interval, mean

from qafel_mpi.trace.reader import Trace, TraceError

# An effect -> the slope against T on log-log axes that the claim allows at most.
CLAIMS = {
    "exact and fresh": -0.5,
    "quantization": -0.5,
    "staleness": -0.5,
    "quantization, without staleness": -0.5,
    "staleness, without quantization": -0.5,
    "interaction": -1.0,
}
_QUANTIZATION = ("algorithm", "uplink", "downlink")
_STALENESS = ("clock.",)
# What a study changes together with T: step sizes, and how often is looked.
_WITH_T = ("stop.", "client.learning_rate", "server.learning_rate", "evaluation.")


class StudyError(ValueError):
    """The runs are no factorial set; the message says what is missing."""


@dataclass(frozen=True)
class Point:
    """What one run measured. gradient: the ergodic mean of ‖∇f‖². delta_c: mean over its uploads, where they were
    recorded. delta_s, smallest_delta_s: over its steps."""

    run: str
    seed: int
    steps: int
    quantization: str
    bits: float  # up and down together; infinite where nothing is quantized
    staleness: float  # mean over its updates
    gradient: float
    delta_c: float | None
    delta_s: float | None
    smallest_delta_s: float | None
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval of 95% over seeds; None for a single seed."""

    value: float
    low: float | None
    high: float | None

    @classmethod
    def of(cls, found: Interval) -> Estimate:
        return cls(*found) if found.known else cls(found.value, None, None)

    @property
    def told_from_zero(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Effect:
    """On the ergodic mean of ‖∇f‖², at one T; quantization and staleness: the levels beside the exact and fresh."""

    name: str
    quantization: str
    staleness: float
    steps: int
    estimate: Estimate


@dataclass(frozen=True)
class Slope:
    """Of log effect against log T. slope is None where the effect is not above zero at every T, or T is one."""

    name: str
    quantization: str
    staleness: float
    slope: Estimate | None
    claimed: float
    verdict: str


@dataclass(frozen=True)
class Study:
    points: list[Point]
    effects: list[Effect]
    slopes: list[Slope]
    with_t: list[str]  # settings that change with T


def point(trace: Trace) -> Point:
    """Read one run. Raises TraceError, also where it has nothing to say."""
    run, steps = row_of(trace), trace.table("steps")
    planned = trace.experiment.get("stop", {}).get("steps")
    last = int(steps["version"][-1]) if len(steps) else 0
    if planned is None or last < int(planned):
        raise TraceError(
            f"{trace.path}: {last} server steps of {planned or 'no fixed number'}: stop.steps sets T"
        )
    looked = steps[np.isfinite(steps["gradient_norm_squared"]) & (steps["version"] < last)]
    if not len(looked):
        raise TraceError(
            f"{trace.path}: no squared gradient norms; run it with --set trace.gradient_norm=true"
        )
    delta_s, smallest = delta(steps["quantization_error"], steps["difference_norm"])
    codecs = [(run[f"{side}_codec"], run[f"{side}_bits"]) for side in ("uplink", "downlink")]
    exact = [name == "identity" for name, _ in codecs]
    words = "/".join("exact" if e else f"{n} {b}" for (n, b), e in zip(codecs, exact, strict=True))
    return Point(
        run=str(trace.path),
        seed=int(run["seed"]),
        steps=last,
        quantization="exact" if all(exact) else words,
        bits=float("inf") if all(exact) else float(sum(b for _, b in codecs)),
        staleness=float(run["mean_staleness"] or 0.0),
        gradient=float(looked["gradient_norm_squared"].mean()),
        delta_c=_delta_c(trace, exact=exact[0]),
        delta_s=delta_s,
        smallest_delta_s=smallest,
        settings=run["settings"],
    )


def _delta_c(trace: Trace, *, exact: bool) -> float | None:
    if exact:
        return 1.0
    try:
        rows = trace.table("encodings")
    except TraceError:  # of an older version
        return None
    return delta(rows["quantization_error"], rows["norm"])[0]


def delta(error: np.ndarray, norm: np.ndarray) -> tuple[float | None, float | None]:
    """δ of Definition 2.1 as measured: 1 − ‖Q(v) − v‖²/‖v‖², its mean and its smallest; None without a v.

    >>> delta(np.array([0.0, 3.0]), np.array([1.0, 6.0]))
    (0.875, 0.75)
    """
    there = np.isfinite(error) & np.isfinite(norm) & (norm > 0)
    if not there.any():
        return None, None
    lost = (error[there] / norm[there]) ** 2
    return float(1 - lost.mean()), float(1 - lost.max())


def study(points: Sequence[Point]) -> Study:
    """Effects and slopes of a factorial set of runs. Raises StudyError where there is none."""
    cells = _cells(points)
    with_t = _changing(points)
    effects, slopes = [], []
    horizons = sorted({steps for steps, _, _ in cells})
    base_q, *others = _by_strength(points)
    fresh, *stale = _levels(points)
    if not others or not stale:
        missing = "quantized and exact runs" if not others else "runs at two levels of staleness"
        raise StudyError(f"no factorial set: there are no {missing}")
    for q in others:
        for s in stale:
            whole = [t for t in horizons if all((t, a, b) in cells for a in (base_q, q) for b in (fresh, s))]
            fours = [[cells[t, a, b] for a in (base_q, q) for b in (fresh, s)] for t in whole]
            for name, weights in _WEIGHTS.items():
                for t, four in zip(whole, fours, strict=True):
                    found = mean(_by_seed([four], weights)[0].tolist())
                    effects.append(Effect(name, q, _mean(points, s), t, Estimate.of(found)))
                if whole:
                    slopes.append(_slope(name, q, _mean(points, s), whole, _by_seed(fours, weights)))
    if not effects:
        raise StudyError("no factorial set: at no T are there runs exact and quantized, fresh and stale")
    return Study(list(points), effects, slopes, with_t)


# --- the factors ------------------------------------------------------------------------------------

Level = tuple[Any, ...]
Cells = dict[tuple[int, str, Level], dict[int, float]]  # seed -> ergodic mean


def _cells(points: Sequence[Point]) -> Cells:
    """Raises StudyError where runs of one cell, or of one T, differ in more than the factors."""
    cells: Cells = {}
    for p in points:
        cell = cells.setdefault((p.steps, p.quantization, _level(p)), {})
        if p.seed in cell:
            raise StudyError(f"{p.run}: a second run of its cell with seed {p.seed}")
        cell[p.seed] = p.gradient
    for steps in {p.steps for p in points}:
        rest = [_rest(p.settings, (*_QUANTIZATION, *_STALENESS)) for p in points if p.steps == steps]
        if varied := sorted({key for one in differences(rest) for key in one}):
            raise StudyError(
                f"runs with T = {steps} differ in {', '.join(varied)}, which is no factor of the study"
            )
    return cells


def _rest(settings: Mapping[str, Any], left_out: tuple[str, ...]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if not k.startswith(left_out)}


def _changing(points: Sequence[Point]) -> list[str]:
    """Settings that change with T. Raises StudyError for one that no study may change with T."""
    rest = [_rest(p.settings, (*_QUANTIZATION, *_STALENESS)) for p in points]
    varied = sorted({key for one in differences(rest) for key in one})
    if strange := [key for key in varied if not key.startswith(_WITH_T)]:
        raise StudyError(f"runs of different T differ in {', '.join(strange)}")
    return varied


def _level(p: Point) -> Level:
    return tuple(sorted((k, repr(v)) for k, v in p.settings.items() if k.startswith(_STALENESS)))


def _levels(points: Sequence[Point]) -> list[Level]:
    """The settings of the clock, the freshest first."""
    return sorted({_level(p) for p in points}, key=lambda level: _mean(points, level))


def _mean(points: Sequence[Point], level: Level) -> float:
    return float(np.mean([p.staleness for p in points if _level(p) == level]))


def _by_strength(points: Sequence[Point]) -> list[str]:
    """The quantizers, the most exact first."""
    return [q for _, q in sorted({(-p.bits, p.quantization) for p in points})]


# --- effects ----------------------------------------------------------------------------------------


def _by_seed(fours: Sequence[Sequence[Mapping[int, float]]], weights: np.ndarray) -> np.ndarray:
    """(horizons, seeds): an effect at each T of the seeds that all cells have, for runs of one share data and model.

    fours: of each T exact fresh, exact stale, quantized fresh, quantized stale. Raises StudyError where no seed is
    in all of them.
    """
    shared = sorted(set.intersection(*(set(cell) for four in fours for cell in four)))
    if not shared:
        raise StudyError("no seed has a run in every cell: an effect is a difference of runs of one seed")
    return np.array([weights @ [[cell[seed] for seed in shared] for cell in four] for four in fours])


# Of exact fresh, exact stale, quantized fresh, quantized stale.
_WEIGHTS = {
    "exact and fresh": np.array([1.0, 0.0, 0.0, 0.0]),
    "quantization": np.array([-0.5, -0.5, 0.5, 0.5]),
    "staleness": np.array([-0.5, 0.5, -0.5, 0.5]),
    "quantization, without staleness": np.array([-1.0, 0.0, 1.0, 0.0]),
    "staleness, without quantization": np.array([-1.0, 1.0, 0.0, 0.0]),
    "interaction": np.array([1.0, -1.0, -1.0, 1.0]),
}


def slope(effects: np.ndarray, horizons: Sequence[int]) -> Interval:
    """The slope of log mean effect against log T, by least squares. effects: (horizons, seeds), means above zero.

    Its interval is Student's t of what each seed adds to it, to first order: Σ c_t · e_ts / mean e_t, with c the
    weights of least squares. A small mean makes it wide, and no sample below zero is left out.
    """
    by_seed = _additions(effects, horizons)
    at = float(_least_squares(horizons) @ np.log(effects.mean(axis=1)))
    return _around(at, by_seed)


def slopes_apart(ours: np.ndarray, theirs: np.ndarray, horizons: Sequence[int]) -> Interval:
    """The difference of two effects' slopes, a seed's runs together."""
    at = slope(ours, horizons).value - slope(theirs, horizons).value
    return _around(at, _additions(ours, horizons) - _additions(theirs, horizons))


def _least_squares(horizons: Sequence[int]) -> np.ndarray:
    x = np.log(np.array(horizons, dtype=float))
    x -= x.mean()
    return x / (x @ x)


def _additions(effects: np.ndarray, horizons: Sequence[int]) -> np.ndarray:
    return _least_squares(horizons) @ (effects / effects.mean(axis=1, keepdims=True))


def _around(at: float, by_seed: np.ndarray) -> Interval:
    """The interval of the seeds' mean, moved to be one of `at`."""
    middle, low, high = mean(by_seed.tolist())
    return Interval(at, at + low - middle, at + high - middle)


def _slope(
    name: str, quantization: str, staleness: float, horizons: Sequence[int], effects: np.ndarray
) -> Slope:
    claimed = CLAIMS[name]

    def found(slope: Estimate | None, verdict: str) -> Slope:
        return Slope(name, quantization, staleness, slope, claimed, verdict)

    if len(horizons) < 2:
        return found(None, "needs two T")
    each = [mean(at.tolist()) for at in effects]
    if min(one.value for one in each) <= 0:
        return found(None, "not above zero at every T: no slope")
    whole = slope(effects, horizons)
    if not whole.known:
        return found(Estimate.of(whole), "one seed: no interval")
    if min(one.low for one in each) <= 0:
        return found(
            Estimate(whole.value, None, None), "not told from zero at every T: its slope says little"
        )
    if whole.low > claimed:
        return found(Estimate.of(whole), "falls slower than claimed over these T")
    return found(
        Estimate.of(whole),
        "as claimed or faster" if whole.high <= claimed else "the claim lies in the interval",
    )
