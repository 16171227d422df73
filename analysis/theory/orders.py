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
from pathlib import Path
from typing import Any

import numpy as np
from qafel_analysis.read.rows import row_of
from qafel_analysis.read.settings import differences
from qafel_analysis.tables.compare import BOOTSTRAP_SAMPLES

from qafel_mpi.trace.reader import Trace, TraceError, open_trace

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
    """A number with its 95% bootstrap interval over seeds; None for a single seed."""

    value: float
    low: float | None
    high: float | None

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


def point(path: Path) -> Point:
    """Read one run. Raises TraceError, and StudyError where it has nothing to say."""
    with open_trace(path, salvage=True) as trace:
        return _point(trace)


def _point(trace: Trace) -> Point:
    run, steps = row_of(trace), trace.table("steps")
    planned = trace.experiment.get("stop", {}).get("steps")
    last = int(steps["version"][-1]) if len(steps) else 0
    if planned is None or last < int(planned):
        raise StudyError(
            f"{trace.path}: {last} server steps of {planned or 'no fixed number'}: stop.steps sets T"
        )
    looked = steps[np.isfinite(steps["gradient_norm_squared"]) & (steps["version"] < last)]
    if not len(looked):
        raise StudyError(
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
    generator = np.random.default_rng(0)
    for q in others:
        for s in stale:
            whole = [t for t in horizons if all((t, a, b) in cells for a in (base_q, q) for b in (fresh, s))]
            samples: dict[str, list[np.ndarray]] = {name: [] for name in CLAIMS}
            values: dict[str, list[float]] = {name: [] for name in CLAIMS}
            for t in whole:
                four = [cells[t, a, b] for a in (base_q, q) for b in (fresh, s)]
                for name, (value, drawn) in _effects(four, generator).items():
                    values[name].append(value)
                    samples[name].append(drawn)
                    effects.append(Effect(name, q, _mean(points, s), t, _estimate(value, drawn)))
            slopes += [
                _slope(name, q, _mean(points, s), whole, values[name], samples[name]) for name in CLAIMS
            ]
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


def _effects(
    four: Sequence[Mapping[int, float]], generator: np.random.Generator
) -> dict[str, tuple[float, np.ndarray]]:
    """Each effect with its bootstrap samples. four: exact fresh, exact stale, quantized fresh, quantized stale.

    Seeds that all four have are drawn together, for runs of one seed share data and initial model.
    """
    shared = sorted(set.intersection(*(set(cell) for cell in four)))
    if shared:
        values = np.array([[cell[seed] for seed in shared] for cell in four])
        picks = generator.integers(0, len(shared), (BOOTSTRAP_SAMPLES, len(shared)))
        drawn, means = values[:, picks].mean(axis=2), values.mean(axis=1)
    else:
        own = [np.array(list(cell.values())) for cell in four]
        drawn = np.stack(
            [v[generator.integers(0, len(v), (BOOTSTRAP_SAMPLES, len(v)))].mean(axis=1) for v in own]
        )
        means = np.array([v.mean() for v in own])
    few = min(len(shared) or len(cell) for cell in four) < 2
    return {
        name: (float(weights @ means), np.zeros(0) if few else weights @ drawn)
        for name, weights in _WEIGHTS.items()
    }


# Of exact fresh, exact stale, quantized fresh, quantized stale.
_WEIGHTS = {
    "exact and fresh": np.array([1.0, 0.0, 0.0, 0.0]),
    "quantization": np.array([-0.5, -0.5, 0.5, 0.5]),
    "staleness": np.array([-0.5, 0.5, -0.5, 0.5]),
    "quantization, without staleness": np.array([-1.0, 0.0, 1.0, 0.0]),
    "staleness, without quantization": np.array([-1.0, 1.0, 0.0, 0.0]),
    "interaction": np.array([1.0, -1.0, -1.0, 1.0]),
}


def _estimate(value: float, samples: np.ndarray) -> Estimate:
    if not len(samples):
        return Estimate(value, None, None)
    low, high = np.quantile(samples, [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _slope(
    name: str,
    quantization: str,
    staleness: float,
    horizons: Sequence[int],
    values: Sequence[float],
    samples: Sequence[np.ndarray],
) -> Slope:
    claimed = CLAIMS[name]

    def found(slope: Estimate | None, verdict: str) -> Slope:
        return Slope(name, quantization, staleness, slope, claimed, verdict)

    if len(horizons) < 2:
        return found(None, "needs two T")
    if min(values) <= 0:
        return found(None, "not above zero at every T: no slope")
    x = np.log(np.array(horizons, dtype=float))
    x -= x.mean()
    value = float(x @ np.log(values) / (x @ x))
    drawn = np.stack(samples)
    if not drawn.shape[1]:
        return found(Estimate(value, None, None), "one seed: no interval")
    above = drawn.min(axis=0) > 0
    if above.mean() < 0.95:
        return found(Estimate(value, None, None), "not told from zero at every T: its slope says little")
    estimate = _estimate(value, x @ np.log(drawn[:, above]) / (x @ x))
    assert estimate.low is not None
    assert estimate.high is not None
    if estimate.low > claimed:
        return found(estimate, "falls slower than claimed over these T")
    return found(
        estimate, "as claimed or faster" if estimate.high <= claimed else "the claim lies in the interval"
    )
