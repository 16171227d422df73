"""A block of docs/findings.md on the paper's second open question: biased and unbiased quantizers of the server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean, stdev
from typing import Any

from docs.render.pages import table
from docs.render.records import NOTHING, content, digits
from docs.render.variants import biased, codecs, named
from docs.render.verdicts import Check, Cost, Finding, Interval, at_least, at_most, every, over, shown, within

SUITE = "biased-server"
RECORDS = ("findings-server",)
CLASSES: Mapping[
    str, Sequence[str]
] = {  # of equal wire bytes: their variants, but for what stands before or behind
    "4 bits": ("qsgd4", "eden4", "eden4-biased", "affine4", "topk4"),
    "2 bits": ("qsgd2", "eden2", "eden2-biased", "affine2", "topk2"),
    "1 bit": ("eden1", "eden1-biased", "sign1", "topk1"),
    "24 bits": ("randk24", "topk24"),
}
SMALL = ("2 bits", "1 bit")  # the classes that were run with other feedback, and at the lower rate, too
COST = 1.1  # uploads over FedBuff's
WITHOUT = 1.5  # uploads without feedback at the server, over those with it

Runs = Mapping[int, Mapping[str, Any]]  # by seed


def server_codecs() -> Finding:
    """Codecs of the server at equal wire bytes: against FedBuff, each other, and themselves without feedback."""
    every_one = [name for names in CLASSES.values() for name in names if _there(name)]
    small = [name for words in SMALL for name in CLASSES[words] if _there(name)]
    slow = [name for name in small if _biased(name) and _there(f"slow-{name}")]
    naive, fed_back = (
        [name for name in small if _there(f"{name}-{feedback}")] for feedback in ("naive", "ef")
    )
    checks = (
        _each(
            f"An unbiased server quantizer costs at most {COST:g} times FedBuff's uploads",
            {name: (one, _at_most(name, one)) for name in every_one if not _biased(name) for one in [_cost(name)]},
        ),
        _each(
            f"A biased one costs more than {COST:g} times",
            {name: (one, at_least(one, COST)) for name in every_one if _biased(name) for one in [_cost(name)]},
        ),
        _each(
            "At equal wire bytes a biased one needs more uploads than the unbiased ones do",
            {name: (one, at_least(one, 1.0)) for name in every_one if _biased(name) for one in [_beside(name)]},
        ),
        _each(
            f"So it does at the lower learning rate, {_rate('slow-fedbuff'):g}",
            {name: (one, at_least(one, 1.0)) for name in slow for one in [_beside(name, "slow-")]},
        ),
        _each(
            f"Without the hidden state (naive) the same quantizer needs {WITHOUT:g} times the uploads or more",
            {name: (one, at_least(one, WITHOUT)) for name in naive for one in [_ratio(f"{name}-naive", name)]},
        ),
        _each(
            f"Error feedback of the clients changes nothing by more than a factor of {COST:g}",
            {name: (one, within(one, 1 / COST, COST)) for name in fed_back for one in [_ratio(f"{name}-ef", name)]},
        ),
    )  # fmt: skip
    return Finding(checks, f"{_sizes_table()}\n\n{_feedback_table(small)}", RECORDS)


def _each(words: str, found: Mapping[str, tuple[Interval | None, bool | None]]) -> Check:
    return every(words, {_words(name): judged for name, judged in found.items()})


# --- runs of a variant --------------------------------------------------------------------------------


def _runs(variant: str) -> Runs:
    return {run["seed"]: run for run in content(RECORDS[0]) if run["variant"] == variant}


def _there(variant: str) -> bool:
    """A small record lacks some."""
    return bool(_runs(variant))


def _costs(variant: str) -> list[Cost]:
    """Uploads by seed; at least all of its own, where a run missed its target."""
    return [
        Cost(seed, float(run["uploads_to_target"] or run["uploads"]), run["uploads_to_target"] is not None)
        for seed, run in _runs(variant).items()
    ]


def _rate(variant: str) -> float:
    """The clients' learning rate."""
    return float(next(iter(_runs(variant).values()))["learning_rate"])


def _of(variants: Sequence[str]) -> list[Cost]:
    """The geometric mean over variants, by the seeds that all have."""
    each = [{cost.seed: cost for cost in _costs(variant)} for variant in variants]
    return [
        Cost(seed, geometric_mean(cost.value for cost in own), all(cost.arrived for cost in own))
        for seed in sorted(set.intersection(*map(set, each)))
        for own in [[costs[seed] for costs in each]]
    ]


def _ratio(ours: str, theirs: str) -> Interval | None:
    return over(_costs(ours), _costs(theirs))


def _cost(name: str, before: str = "") -> Interval | None:
    return _ratio(before + name, f"{before}fedbuff")


def _beside(name: str, before: str = "") -> Interval | None:
    """Over the unbiased codecs of its class."""
    (names,) = (names for names in CLASSES.values() if name in names)
    unbiased = [before + one for one in names if not _biased(one) and _there(before + one)]
    return over(_costs(before + name), _of(unbiased))


def _at_most(name: str, cost: Interval | None) -> bool | None:
    """A quantizer with which a run misses its target has no bounded cost."""
    return at_most(cost, COST) if all(cost.arrived for cost in _costs(name)) else False


# --- tables -------------------------------------------------------------------------------------------


def _biased(name: str) -> bool:
    return biased(codecs(SUITE, name)[1])


def _words(name: str) -> str:
    return named(codecs(SUITE, name)[1])


def _sizes_table() -> str:
    lines = []
    for names in CLASSES.values():
        for name in filter(_there, names):
            runs = _runs(name).values()
            slow = _there(f"slow-{name}")
            lines.append(
                (
                    _words(name),
                    "biased" if _biased(name) else "unbiased",
                    f"{fmean(run['wire_bytes'] for run in runs):,.0f}",
                    digits(1 - fmean(run["delta_s"] for run in runs), 2),
                    _spread(name),
                    shown(_cost(name)),
                    shown(_beside(name)) if _biased(name) else "",
                    shown(_cost(name, "slow-")) if slow else NOTHING,
                    (shown(_beside(name, "slow-")) if slow else NOTHING) if _biased(name) else "",
                )
            )
    fast, lower = (f"at {_rate(variant):g}" for variant in ("fedbuff", "slow-fedbuff"))
    header = (
        "server's quantizer",
        "",
        "bytes of a broadcast, wire",
        "1 − δ_s",
        f"uploads {fast}",
        "/ FedBuff's [95%]",
        "/ the unbiased ones' [95%]",
        f"{lower}: / FedBuff's [95%]",
        f"{lower}: / the unbiased ones' [95%]",
    )
    return table(header, lines, right=range(2, 9))


def _feedback_table(small: Sequence[str]) -> str:
    lines = [
        (
            _words(name),
            _spread(name),
            *(
                cell
                for feedback in ("naive", "ef")
                for cell in (_spread(f"{name}-{feedback}"), _shown_ratio(f"{name}-{feedback}", name))
            ),
        )
        for name in small
    ]
    header = (
        f"server's quantizer, rate {_rate('fedbuff'):g}",
        "uploads, hidden state",
        "without it: naive",
        "naive / hidden [95%]",
        "with the clients' error feedback",
        "with / without [95%]",
    )
    return table(header, lines, right=range(1, 6))


def _shown_ratio(ours: str, theirs: str) -> str:
    return shown(_ratio(ours, theirs)) if _there(ours) else NOTHING


def _spread(variant: str) -> str:
    if not _there(variant):
        return NOTHING
    costs = _costs(variant)
    uploads, missed = [cost.value for cost in costs], sum(not cost.arrived for cost in costs)
    if missed == len(uploads):
        return f"missed by all {missed}, with {digits(fmean(uploads))}"
    text = f"{digits(fmean(uploads))} ± {digits(stdev(uploads), 2)}"
    return f"{text} (missed by {missed} of {len(uploads)})" if missed else text
