"""A block of docs/findings.md on the paper's first open question: a model of uploads by the quantizers' errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from docs.render.pages import table
from docs.render.records import content, digits
from docs.render.verdicts import (
    Check,
    Finding,
    Interval,
    at_least,
    at_most,
    every,
    mean,
    shown,
    times,
    within,
)

UNBIASED = ("identity", "qsgd", "eden", "randk")
ERROR = 0.1  # of a prediction, at most
LOSS = 1.1  # seconds with the codecs that the model picks, over the best measured
# Seconds of a float32 model on the server's link, over those between two finishes of clients.
LINKS = (0.1, 1.0, 10.0, 100.0)
RECORDS = ("findings-tradeoff",)


@dataclass(frozen=True)
class Setting:
    """A pair of codecs. ratios: uploads over FedBuff's, by seed; errors: 1 − δ_c and 1 − δ_s, means over seeds."""

    name: str
    codecs: frozenset[str]
    ratios: Sequence[float]
    errors: tuple[float, float]
    bytes: tuple[float, float]  # of an upload and of a broadcast, over FedBuff's
    buffer_size: int

    @property
    def fitted(self) -> bool:
        return self.codecs <= {"identity", "qsgd"}

    @property
    def unbiased(self) -> bool:
        """Up and down: what has only a biased codec of the server's counts as biased, too."""
        return self.codecs <= set(UNBIASED)


def tradeoff() -> Finding:
    """uploads / FedBuff's = 1 + a·(1 − δ_c) + b·(1 − δ_s), fitted to qsgd and held against other codecs."""
    found = settings()
    fitted = [one for one in found if one.fitted]
    others = [one for one in found if not one.fitted]
    coefficients = np.array([fit(fitted, seed) for seed in range(len(found[0].ratios))])
    a, b = (mean(list(column)) for column in coefficients.T)
    apart = mean(list(coefficients[:, 1] - coefficients[:, 0]))
    left_out = {one.name: over(one, [other for other in fitted if other is not one]) for one in fitted}
    held_out = {one.name: over(one, fitted) for one in others}
    checks = (
        every(
            "Each setting of qsgd is predicted within 10% by a fit to the others of qsgd",
            _judged(left_out),
        ),
        every(
            "Other unbiased codecs are predicted within 10% by the fit to qsgd",
            _judged({one.name: held_out[one.name] for one in others if one.unbiased}),
        ),
        every(
            "So are biased ones",
            _judged({one.name: held_out[one.name] for one in others if not one.unbiased}),
        ),
        Check(
            "An error of the server's quantizer costs more than the same error of a client's: b above a",
            f"a: {shown(a)}; b: {shown(b)}; b − a: {shown(apart)}",
            at_least(apart, 0.0),
        ),
        every(
            "On each link the codecs that the model picks take at most 1.1 times the seconds of the best measured",
            {
                f"link {rho:g}": (one, at_most(one, LOSS))
                for rho in LINKS
                for one in [_lost(found, fitted, rho)]
            },
        ),
    )
    errors = {
        "settings of qsgd, each left out of its fit": left_out.values(),
        "other unbiased codecs": [held_out[one.name] for one in others if one.unbiased],
        "biased codecs": [held_out[one.name] for one in others if not one.unbiased],
    }
    words = ", ".join(f"{_off(ratios):.1%} for {name}" for name, ratios in errors.items())
    both = _settings_table(found, fitted, left_out | held_out)
    tables = f"Mean error of a prediction: {words}.\n\n{both}\n\n{_links_table(found, fitted)}"
    return Finding(checks, tables, RECORDS)


def _off(ratios: Iterable[Interval | None]) -> float:
    """Mean of |predicted / measured − 1| over settings."""
    return fmean(abs(found[0] - 1) for found in ratios if found is not None)


def _judged(found: Mapping[str, Interval | None]) -> dict[str, tuple[Interval | None, bool | None]]:
    return {name: (one, within(one, 1 - ERROR, 1 + ERROR)) for name, one in found.items()}


# --- settings and fits --------------------------------------------------------------------------------


def settings() -> list[Setting]:
    """Every setting but FedBuff, in the order of the record. Raises ValueError where a run missed its target."""
    runs: dict[str, dict[int, Mapping[str, Any]]] = {}
    for run in content("findings-tradeoff"):
        runs.setdefault(run["variant"], {})[run["seed"]] = run
    fedbuff = runs.pop("fedbuff")
    return [_setting(name, own, fedbuff) for name, own in runs.items()]


def _setting(
    name: str, own: Mapping[int, Mapping[str, Any]], fedbuff: Mapping[int, Mapping[str, Any]]
) -> Setting:
    first = next(iter(own.values()))
    mean_of = {key: fmean(run[key] for run in own.values()) for key in ("delta_c", "delta_s")}
    whole = next(iter(fedbuff.values()))
    return Setting(
        name=name,
        codecs=frozenset({first["uplink"], first["downlink"]}),
        ratios=[_uploads(own[seed]) / _uploads(fedbuff[seed]) for seed in sorted(fedbuff)],
        errors=(1 - mean_of["delta_c"], 1 - mean_of["delta_s"]),
        bytes=(
            first["upload_bytes"] / whole["upload_bytes"],
            first["broadcast_bytes"] / whole["broadcast_bytes"],
        ),
        buffer_size=first["buffer_size"],
    )


def _uploads(run: Mapping[str, Any]) -> int:
    if run["uploads_to_target"] is None:
        raise ValueError(
            f"{run['variant']}, seed {run['seed']}: it missed its target, and has no place in a fit"
        )
    return int(run["uploads_to_target"])


def fit(of: Sequence[Setting], seed: int | None = None) -> np.ndarray:
    """(a, b) by least squares; of one seed (its place), or of the means over seeds.

    >>> two = [Setting("", frozenset(), [r], e, (1, 1), 1) for r, e in ((1.2, (0.1, 0)), (1.5, (0, 0.1)))]
    >>> fit(two).round(2).tolist()
    [2.0, 5.0]
    """
    errors = np.array([one.errors for one in of])
    costs = np.array([(fmean(one.ratios) if seed is None else one.ratios[seed]) - 1 for one in of])
    return np.linalg.lstsq(errors, costs, rcond=None)[0]


def predicted(one: Setting, by: Sequence[Setting], seed: int | None = None) -> float:
    return float(1 + np.array(one.errors) @ fit(by, seed))


def over(one: Setting, by: Sequence[Setting]) -> Interval | None:
    """Predicted over measured uploads: seed by seed, each with its own fit."""
    return times([predicted(one, by, seed) for seed in range(len(one.ratios))], one.ratios)


# --- the best for a link ------------------------------------------------------------------------------


def seconds(one: Setting, ratio: float, rho: float) -> float:
    """To the target, in those that FedBuff's uploads take to be trained: the server's link carries all messages.

    An upload takes as long as the slower of training and sending; a broadcast counts once for K uploads.
    """
    up, down = one.bytes
    return ratio * (max(1.0, rho * up) + rho * down / one.buffer_size)


def _best(found: Sequence[Setting], fitted: Sequence[Setting] | None, rho: float) -> Setting:
    """By the model, or by measured uploads where there is no fit."""

    def cost(one: Setting) -> float:
        return seconds(one, fmean(one.ratios) if fitted is None else predicted(one, fitted), rho)

    return min(found, key=cost)


def _lost(found: Sequence[Setting], fitted: Sequence[Setting], rho: float) -> Interval | None:
    """Seconds measured with the model's pick over those with the best, seed by seed."""
    pick, best = _best(found, fitted, rho), _best(found, None, rho)
    return times(*([seconds(one, ratio, rho) for ratio in one.ratios] for one in (pick, best)))


def _links_table(found: Sequence[Setting], fitted: Sequence[Setting]) -> str:
    lines = []
    for rho in LINKS:
        pick, best = _best(found, fitted, rho), _best(found, None, rho)
        float32 = max(1.0, rho) + rho / best.buffer_size
        cost = seconds(best, fmean(best.ratios), rho)
        lines.append(
            (f"{rho:g}", best.name, pick.name, shown(_lost(found, fitted, rho)), digits(float32 / cost))
        )
    header = (
        "link: float32 message / training",
        "fewest seconds, measured",
        "by the model",
        "seconds, model's / best [95%]",
        "FedBuff's seconds / best",
    )
    return table(header, lines, right=(0, 3, 4))


def _settings_table(
    found: Sequence[Setting], fitted: Sequence[Setting], ratios: Mapping[str, Interval | None]
) -> str:
    lines = [
        (
            one.name,
            "fitted" if one.fitted else "held out",
            *(digits(error, 2) for error in one.errors),
            shown(times(one.ratios, [1.0 for _ in one.ratios])),
            digits(predicted(one, fitted)),
            shown(ratios[one.name]),
        )
        for one in found
    ]
    header = (
        "codecs",
        "",
        "1 − δ_c",
        "1 − δ_s",
        "uploads / FedBuff's [95%]",
        "model",
        "predicted / measured [95%]",
    )
    return table(header, lines, right=range(2, 7))
