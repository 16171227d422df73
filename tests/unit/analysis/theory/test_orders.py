"""The factorial study: from runs made with known effects it finds those effects, and their orders."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.example import Example, write
from qafel_analysis.theory import orders as theory
from qafel_analysis.theory.orders import Point, StudyError
from typer.testing import CliRunner

from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import ENCODINGS

HORIZONS = (100, 400, 1600)
BASE, QUANTIZATION, STALENESS, CROSS = 2.0, 0.5, 0.8, 6.0


def made(quantized: bool, stale: bool, steps: int, seed: int, *, noise: float = 0.002) -> Point:
    """‖∇f‖² = (2 + 0.5 q + 0.8 s)/√T + 6 q s/T, and a seed's own share of it."""
    generator = np.random.default_rng([seed, quantized, stale, steps])
    gradient = (BASE + QUANTIZATION * quantized + STALENESS * stale) / math.sqrt(
        steps
    ) + CROSS * quantized * stale / steps
    gradient *= 1 + noise * generator.standard_normal()
    return Point(
        run=f"{quantized}-{stale}-{steps}-{seed}.h5",
        seed=seed,
        steps=steps,
        quantization="qsgd 3/qsgd 3" if quantized else "exact",
        bits=6.0 if quantized else math.inf,
        staleness=18.0 if stale else 0.0,
        gradient=gradient,
        delta_c=None,
        delta_s=0.7 if quantized else 1.0,
        smallest_delta_s=0.4 if quantized else 1.0,
        settings={
            "clock.staleness.max": 20 if stale else 0,
            "uplink.codec": "qsgd" if quantized else "identity",
            "client.learning_rate": 1 / math.sqrt(steps),
            "stop.steps": steps,
            "task.dataset": "digits",
        },
    )


def factorial(**options) -> list[Point]:
    return [
        made(q, s, t, seed, **options)
        for q in (False, True)
        for s in (False, True)
        for t in HORIZONS
        for seed in range(5)
    ]


def test_known_effects_are_found_within_their_intervals():
    study = theory.study(factorial())
    for e in study.effects:
        t = e.steps
        truth = {
            "exact and fresh": BASE / math.sqrt(t),
            "quantization": QUANTIZATION / math.sqrt(t) + CROSS / (2 * t),
            "staleness": STALENESS / math.sqrt(t) + CROSS / (2 * t),
            "quantization, without staleness": QUANTIZATION / math.sqrt(t),
            "staleness, without quantization": STALENESS / math.sqrt(t),
            "interaction": CROSS / t,
        }[e.name]
        assert e.estimate.value == pytest.approx(truth, rel=0.12), (e.name, t)
        assert e.estimate.told_from_zero
        assert e.estimate.low is not None
        assert e.estimate.high is not None
        assert e.estimate.low < e.estimate.value < e.estimate.high
    assert study.with_t == ["client.learning_rate", "stop.steps"]


def test_known_orders_are_found_as_slopes():
    slopes = {s.name: s for s in theory.study(factorial(noise=0.0005)).slopes}
    alone = ("exact and fresh", "quantization, without staleness", "staleness, without quantization")
    expected = dict.fromkeys(alone, -0.5) | {"interaction": -1.0}
    for name, order in expected.items():
        assert slopes[name].slope is not None, name
        assert slopes[name].slope.value == pytest.approx(order, abs=0.04), name
        assert "slower" not in slopes[name].verdict
    assert -1.0 < slopes["quantization"].slope.value < -0.5  # a sum of both orders


def test_a_cross_term_that_falls_too_slowly_is_said_to():
    points = [
        replace(p, gradient=p.gradient + (0.3 * p.steps**-0.5 if p.bits < math.inf and p.staleness else 0))
        for p in factorial(noise=0.0005)
    ]
    slope = next(s for s in theory.study(points).slopes if s.name == "interaction")
    assert slope.slope is not None
    assert slope.slope.low > -1
    assert "slower than claimed" in slope.verdict


def test_an_effect_that_drowns_in_the_seeds_gets_no_interval_of_its_slope():
    points = factorial(noise=0.3)
    slopes = {s.name: s for s in theory.study(points).slopes}
    assert "slope" in slopes["interaction"].verdict
    assert slopes["interaction"].slope is None or slopes["interaction"].slope.low is None


def test_slopes_and_their_differences_are_covered_as_often_as_they_say():
    """2,000 studies of 24 seeds at effects told from zero: 95% have a standard deviation of 0.5 points."""
    generator = np.random.default_rng(20230804)
    truths = {"one": -1.0, "other": -1.6}
    hits = dict.fromkeys((*truths, "apart"), 0)
    shared = generator.normal(0, 0.3, (2000, 1, 24))
    for common in shared:
        effects = {
            name: np.array(HORIZONS, dtype=float)[:, None] ** order
            * (1 + common + generator.normal(0, 0.5, (len(HORIZONS), 24)))
            for name, order in truths.items()
        }
        found = {name: theory.slope(effects[name], HORIZONS) for name in truths}
        found["apart"] = theory.slopes_apart(effects["one"], effects["other"], HORIZONS)
        for name, truth in (truths | {"apart": truths["one"] - truths["other"]}).items():
            hits[name] += found[name].low <= truth <= found[name].high
    assert all(0.93 <= count / 2000 <= 0.97 for count in hits.values()), hits


def test_runs_of_different_seeds_in_every_cell_are_no_study():
    points = [replace(p, seed=p.seed + 100 * (p.bits < math.inf)) for p in factorial()]
    with pytest.raises(StudyError, match="no seed has a run in every cell"):
        theory.study(points)


def test_one_seed_gives_numbers_without_intervals():
    study = theory.study([p for p in factorial() if p.seed == 0])
    assert all(e.estimate.low is None for e in study.effects)
    assert {s.verdict for s in study.slopes} == {"one seed: no interval"}


def test_what_is_no_factorial_set_is_refused_with_the_reason():
    points = factorial()
    with pytest.raises(StudyError, match="no quantized and exact runs"):
        theory.study([p for p in points if p.bits == math.inf])
    with pytest.raises(StudyError, match="two levels of staleness"):
        theory.study([p for p in points if not p.staleness])
    with pytest.raises(StudyError, match="second run of its cell with seed 0"):
        theory.study([*points, points[0]])
    odd = replace(points[0], seed=9, settings=points[0].settings | {"task.dataset": "mushrooms"})
    with pytest.raises(StudyError, match=r"T = 100 differ in task\.dataset"):
        theory.study([*points, odd])


def trace(path: Path, quantized: bool, stale: bool, gradient: float, seed: int = 0) -> Path:
    """A made-up trace whose gradients are known: twice as large at the last step, which is not below T."""
    write(path, Example(messages=2000, algorithm="qafel" if quantized else "fedbuff", seed=seed))
    with h5py.File(path, "r+") as file:
        steps, updates = file["steps"][:], file["updates"][:]
        steps["gradient_norm_squared"] = np.where(np.isfinite(steps["loss"]), gradient, np.nan)
        steps["gradient_norm_squared"][-1] *= 2
        steps["difference_norm"], steps["quantization_error"] = 2.0, 1.0 if quantized else 0.0
        updates["staleness"] = 7 * stale
        del file["encodings"]
        if quantized:
            file["encodings"] = np.array([(0, 0, 2.0, 1.0), (1, 0, 0.0, 0.0), (2, 0, 1.0, 0.5)], ENCODINGS)
        file["steps"][...], file["updates"][...] = steps, updates
        text = str(file.attrs["experiment"]).replace(
            'kind = "wall"', f'kind = "virtual"\nconcurrency = {5 + stale}'
        )
        text = text.replace("accuracy = 0.9", f"steps = {len(steps) - 1}")
        file.attrs["experiment"], file.attrs["driver"] = text, "virtual"
    return path


def test_a_trace_gives_the_ergodic_mean_and_delta_s(tmp_path):
    with open_trace(trace(tmp_path / "a.h5", True, True, 3.0)) as quantized:
        point = theory.point(quantized)
    assert point.gradient == pytest.approx(3.0)
    assert point.delta_c == 0.75  # of a zero update there is no ratio
    assert (point.delta_s, point.smallest_delta_s) == (0.75, 0.75)
    assert point.staleness == 7
    assert point.quantization == "qsgd 4/qsgd 4"
    with open_trace(trace(tmp_path / "b.h5", False, False, 1.0)) as exact:
        assert theory.point(exact).delta_s == 1.0


def test_the_command_prints_what_is_measured_beside_what_is_claimed(tmp_path):
    files = [
        trace(tmp_path / f"{q}{s}{seed}.h5", q, s, 1 + 0.5 * q + s + q * s + 0.01 * seed * (1 + q * s), seed)
        for q in (False, True) for s in (False, True) for seed in (0, 1, 2)
    ]  # fmt: skip
    (tmp_path / "bad.h5").write_bytes(b"no trace")
    arguments = ["theory", *map(str, files), str(tmp_path / "bad.h5")]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    effects = {e["name"]: e["estimate"]["value"] for e in found["effects"]}
    assert effects["quantization"] == pytest.approx(1.0, abs=0.02)
    assert effects["staleness"] == pytest.approx(1.5, abs=0.02)
    assert effects["interaction"] == pytest.approx(1.0, abs=0.02)
    assert {s["verdict"] for s in found["slopes"]} == {"needs two T"}
    table = CliRunner().invoke(app, arguments).stdout
    assert table.index("Measured:") < table.index("Claimed by the paper")


def test_runs_without_gradient_norms_are_named_and_exit_2(tmp_path):
    path = write(tmp_path / "a.h5", Example(messages=2000))
    done = CliRunner().invoke(app, ["theory", str(path)])
    assert done.exit_code == 2
    assert "stop.steps sets T" in done.stderr
