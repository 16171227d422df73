"""A block of docs/findings.md on the paper's first open question: a model of uploads by the quantizers' errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from qafel_analysis.theory import link

from docs.render.pages import table
from docs.render.records import content, digits
from docs.render.variants import biased, codecs
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

SUITE = "tradeoff"
ERROR = 0.1  # of a prediction, at most
LOSS = 1.1  # seconds with the codecs that the model picks, over the best measured
MODELS = {"the paper's CNN": 29_282, "ResNet-18": 11_172_810}  # elements, which float32 sends as 4 bytes each
RATES = (10.0, 100.0, 1_000.0, 10_000.0)  # of the server's link, Mbit/s
BETWEEN_S = 0.01  # from the end of one training to the next: a second each, and 100 clients at a time
RECORDS = ("findings-tradeoff",)


@dataclass(frozen=True)
class Setting:
    """A pair of codecs. ratios: uploads over FedBuff's, by seed; errors: 1 − δ_c and 1 − δ_s, means over seeds."""

    name: str
    codecs: frozenset[str]
    uploads: Sequence[float]
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
        return not any(map(biased, codecs(SUITE, self.name)))


def tradeoff() -> Finding:
    """uploads / FedBuff's = 1 + a·(1 − δ_c) + b·(1 − δ_s), fitted to qsgd and held against other codecs."""
    found = settings()
    fitted = [one for one in found if one.fitted]
    coefficients = np.array([fit(fitted, seed) for seed in range(len(found[0].ratios))])
    a, b = (mean(list(column)) for column in coefficients.T)
    apart = mean(list(coefficients[:, 1] - coefficients[:, 0]))
    basis = {one.name: [other for other in fitted if other is not one] for one in found}
    ratios = {one.name: over(one, basis[one.name]) for one in found}
    groups = {
        "settings of qsgd, each left out of its fit": fitted,
        "other unbiased codecs": [one for one in found if not one.fitted and one.unbiased],
        "biased codecs": [one for one in found if not one.fitted and not one.unbiased],
    }
    of_model = {name: [_off(ratios[one.name]) for one in group] for name, group in groups.items()}
    of_null = {name: [_off(null(one)) for one in group] for name, group in groups.items()}
    better = {name: mean(list(np.subtract(of_null[name], of_model[name]))) for name in groups}
    own, unbiased, not_unbiased = ({one.name: ratios[one.name] for one in group} for group in groups.values())
    checks = (
        every("Each setting of qsgd is predicted within 10% by a fit to the others of qsgd", _judged(own)),
        every("Other unbiased codecs are predicted within 10% by the fit to qsgd", _judged(unbiased)),
        every("So are biased ones", _judged(not_unbiased)),
        every(
            "The fit predicts better than the null, by which no quantizer costs uploads: its mean error is smaller",
            {f"{name}, by": (one, at_least(one, 0.0)) for name, one in better.items()},
            show=_percent,
        ),
        every(
            "An error of either quantizer costs uploads: a and b are above 0",
            {name: (one, at_least(one, 0.0)) for name, one in (("a", a), ("b", b))},
        ),
        Check(
            "An error of the server's quantizer costs more than the same error of a client's: b above a",
            f"b − a: {shown(apart)}",
            at_least(apart, 0.0),
        ),
        every(
            "On each link the codecs that the fit picks take at most 1.1 times the seconds of the best measured",
            {
                f"{model}, {_rate(mbit)}": (one, at_most(one, LOSS))
                for model in MODELS
                for mbit in RATES
                for one in [_lost(found, fitted, model, mbit)]
            },
        ),
    )
    errors = [
        (name, len(group), *map(_percent, (mean(of_null[name]), mean(of_model[name]), better[name])))
        for name, group in groups.items()
    ]
    header = (
        "mean error of a prediction [95% over settings]",
        "settings",
        "of the null",
        "of the fit",
        "null − fit",
    )
    tables = (
        table(header, errors, right=range(1, 5)),
        _settings_table(found, basis, ratios),
        _links_table(found, fitted),
    )
    return Finding(checks, "\n\n".join(tables), RECORDS)


def _off(ratio: Interval | None) -> float:
    """|predicted / measured − 1|, of the geometric mean over seeds; 1 where no uploads at all are predicted."""
    return abs(ratio[0] - 1) if ratio else 1.0


def null(one: Setting) -> Interval | None:
    """Predicted over measured uploads where the prediction is FedBuff's."""
    return times([1.0 for _ in one.ratios], one.ratios)


def _percent(found: Interval | None, *_: float) -> str:
    """
    >>> _percent(Interval(0.029, -0.01, 0.1))
    '2.9% [-1.0%, 10.0%]'
    """
    if found is None:
        return shown(None)
    middle, low, high = (f"{value:.1%}" for value in found)
    return f"{middle} [{low}, {high}]"


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
        uploads=[float(_uploads(own[seed])) for seed in sorted(fedbuff)],
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

    >>> two = [Setting("", frozenset(), [], [r], e, (1, 1), 1) for r, e in ((1.2, (0.1, 0)), (1.5, (0, 0.1)))]
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


def on_link(one: Setting, model: str) -> link.Setting:
    """With messages of a model of this size, and the uploads that digits took."""
    whole = 4 * MODELS[model]
    up, down = (whole * share for share in one.bytes)
    return link.Setting(one.name, dict(enumerate(one.uploads)), up, down, one.buffer_size)


def fastest(found: Sequence[Setting], model: str, mbit: float) -> list[link.Rated]:
    """The fastest first, as measured; FedBuff is among them."""
    return link.rated([on_link(one, model) for one in [*found, _fedbuff(found)]], mbit, BETWEEN_S)


def _fedbuff(found: Sequence[Setting]) -> Setting:
    one = found[0]
    uploads = [count / ratio for count, ratio in zip(one.uploads, one.ratios, strict=True)]
    whole = frozenset({"identity"})
    return Setting("fedbuff", whole, uploads, [1.0] * len(uploads), (0.0, 0.0), (1.0, 1.0), one.buffer_size)


def picked(found: Sequence[Setting], fitted: Sequence[Setting], model: str, mbit: float) -> str:
    """The setting that is the fastest by the fit: its uploads count no more than as FedBuff's predicted multiple."""

    def cost(one: Setting) -> float:
        return link.seconds(predicted(one, fitted), on_link(one, model), mbit, BETWEEN_S)

    return min(found, key=cost).name


def _lost(found: Sequence[Setting], fitted: Sequence[Setting], model: str, mbit: float) -> Interval | None:
    """Seconds measured with the fit's pick over those with the best, seed by seed."""
    name = picked(found, fitted, model, mbit)
    (own,) = (one for one in fastest(found, model, mbit) if one.setting.name == name)
    return own.over_best


def _rate(mbit: float) -> str:
    """
    >>> _rate(10), _rate(10_000)
    ('10 Mbit/s', '10 Gbit/s')
    """
    return f"{mbit / 1000:g} Gbit/s" if mbit >= 1000 else f"{mbit:g} Mbit/s"


def _links_table(found: Sequence[Setting], fitted: Sequence[Setting]) -> str:
    lines = []
    for model in MODELS:
        for mbit in RATES:
            ordered = fastest(found, model, mbit)
            best, *others = ordered
            (float32,) = (one for one in ordered if one.setting.name == "fedbuff")
            lines.append(
                (
                    f"{model}, {MODELS[model]:,}",
                    _rate(mbit),
                    best.setting.name,
                    link.ties(others),
                    picked(found, fitted, model, mbit),
                    shown(_lost(found, fitted, model, mbit)),
                    f"{digits(best.seconds)} s",
                    digits(float32.seconds / best.seconds),
                )
            )
    header = (
        "model, elements",
        "server's link",
        "fewest seconds, measured",
        "ties: 95% interval to it has 1 in it",
        "by the fit",
        "seconds, the fit's / fewest [95%]",
        "fewest seconds",
        "FedBuff's / fewest",
    )
    return table(header, lines, right=(5, 6, 7))


def _settings_table(
    found: Sequence[Setting], basis: Mapping[str, Sequence[Setting]], ratios: Mapping[str, Interval | None]
) -> str:
    lines = [
        (
            one.name,
            "left out of its fit" if one.fitted else "unbiased" if one.unbiased else "biased",
            *(digits(error, 2) for error in one.errors),
            shown(times(one.ratios, [1.0 for _ in one.ratios])),
            digits(predicted(one, basis[one.name])),
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
        "predicted",
        "predicted / measured [95%]",
    )
    return table(header, lines, right=range(2, 7))
