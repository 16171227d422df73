"""Blocks of docs/findings.md on the statements of Bits with other tasks: the paper's CNN, and a transformer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from docs.render import headline
from docs.render.verdicts import Check, Finding, Interval, at_least, at_most, every, judged, needed, saved

# The setting of QAFeL in a label: its codec and bits, both ways.
SHOWN = {
    "qsgd at 4/4 bits": ("qsgd 4 bits up", "qsgd 4 bits down"),
    "eden at 4/4 bits": ("eden 4 bits up", "eden 4 bits down"),
    "eden at 2/2 bits": ("eden 2 bits up", "eden 2 bits down"),
    "eden at 1/1 bit": ("eden 1 bits up", "eden 1 bits down"),
}
# With 4 bits down; how many times fewer bytes up are wanted.
FINER_DOWN = {"eden at 2/4 bits": ("eden 2 bits up", 15.0), "eden at 1/4 bits": ("eden 1 bits up", 28.0)}
_OWN_WEIGHT = ("cutoff", "cosine-exp", "rate")


def _task(task: str) -> Finding:
    """The bounds are those of Bits, and with finer bits down this project's own goals.

    A setting that was not run leaves its statement open.
    """
    found = headline.joined(task)
    of = {name: setting_of(found, "qafel", parts) for name, parts in SHOWN.items()}
    fed_back = {name: setting_of(found, "qafel-ef", parts) for name, parts in SHOWN.items()}
    finer = {
        name: own
        for name, (up, _) in FINER_DOWN.items()
        if (own := setting_of(found, "qafel", (up, "eden 4 bits down")))
    }
    four, one = of["qsgd at 4/4 bits"], of["eden at 1/1 bit"]
    checks = [
        _uploads("QAFeL needs at most 1.2 times FedBuff's uploads", of),
        judged(
            "With qsgd at 4/4 bits it uploads 5.2 times fewer bytes or better", _saved(four), at_least, 5.2
        ),
        judged("With eden at 1 bit it uploads 8 times fewer bytes or better", _saved(one), at_least, 8.0),
    ]
    if any(fed_back.values()):
        checks.append(
            _uploads(
                "With error feedback too it needs at most 1.2 times",
                {name: own for name, own in fed_back.items() if own},
            )
        )
    if finer:
        checks += [
            _uploads("With finer bits down, where few bytes go, it needs at most 1.05 times", finer, 1.05),
            every(
                "There eden at 2 bits uploads 15 times fewer bytes or better, and at 1 bit 28 times",
                {
                    name: (ratio, at_least(ratio, FINER_DOWN[name][1]))
                    for name, own in finer.items()
                    for ratio in [_saved(own)]
                },
                *(least for _, least in FINER_DOWN.values()),
            ),
        ]
    return Finding(checks, headline.shown(task), headline.records_of(task))


def setting_of(
    found: Sequence[Mapping[str, Any]], algorithm: str, parts: Sequence[str]
) -> Mapping[str, Any] | None:
    """With the weight that all settings share; None where it was not run."""
    fitting = [
        one
        for one in found
        if one["algorithm"] == algorithm
        and set(parts) <= set(one["setting"].split(", "))
        and not one["setting"].endswith(_OWN_WEIGHT)
    ]
    return fitting[0] if len(fitting) == 1 else None


def _saved(own: Mapping[str, Any] | None) -> Interval | None:
    return saved(own, "payload_bytes_up") if own else None


def _uploads(words: str, of: Mapping[str, Mapping[str, Any] | None], most: float = 1.2) -> Check:
    ratios = {name: needed(own) if own else None for name, own in of.items()}
    return every(words, {name: (ratio, at_most(ratio, most)) for name, ratio in ratios.items()}, most)


cnn, transformer = (partial(_task, task) for task in ("fashion-mnist", "text"))
