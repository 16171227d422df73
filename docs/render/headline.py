"""Blocks of docs/results.md: uploads and bytes to the target, QAFeL and its rivals by codec and bits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from qafel_analysis.tables.grid import size

from docs.render import verdicts
from docs.render.pages import table
from docs.render.records import (
    NOTHING,
    beside,
    content,
    digits,
    measured,
    not_measured,
    origin,
    record,
)
from qafel_mpi import experiments

_LABEL = re.compile(r"(?P<algorithm>\S+), (?P<up>.+?) up, (?P<down>.+?) down, K = (?P<k>\d+)(?P<more>, .*)?")
_KS = {"1", "10"}  # FedAsync's and all others', but for what waits for all that train
# A rival with a quantizer: its label says so twice.
_CODECS = re.compile(r" \(((up|down)link\.(codec|mode) = \w+(, )?)+\)")
_BEST = " †"
_FIRST = ("fedbuff", "qafel", "qafel-ef")  # the others by name
# What one setting differs in from the others is in its label, but for the weight that all but three have.
_USUAL = ", staleness.weight = polynomial"
_HEADER = (
    "",
    "runs that reached it",
    "uploads",
    "uploads / FedBuff's [95%]",
    "payload up",
    "FedBuff's / this [95%]",
    "payload down",
    "FedBuff's / this [95%]",
    "wire up",
    "wire down",
)


def records_of(task: str) -> tuple[str, ...]:
    """headline-TASK, and headline-TASK-rivals where that was measured later, with FedBuff's runs repeated beside."""
    first = f"headline-{task}"
    rivals = f"{first}-rivals"
    return (first, rivals) if beside(first, rivals) else (first,)


def joined(task: str) -> list[dict[str, Any]]:
    """The settings of all records of a task, FedBuff's once, that of most runs.

    Raises ValueError where two records have another.
    """
    names = records_of(task)
    found = {one["setting"]: one for one in content(names[0])}
    for name in names[1:]:
        for one in content(name):
            if one["setting"] in found and one["algorithm"] != "fedbuff":
                raise ValueError(
                    f"{name}.json: {names[0]}.json has {one['setting']}, too; make one of all runs"
                )
            if one["runs"] > found.get(one["setting"], {"runs": 0})["runs"]:
                found[one["setting"]] = one
    return sorted(found.values(), key=_rank)


def _suite(task: str) -> str:
    names = records_of(task)
    return f"{shown(task)}\n\n{origin(*names)}" if measured(names[0]) else not_measured("headline")


def shown(task: str) -> str:
    """The settings of a task that were run, and which of the suite's were not."""
    found = joined(task)
    (target,) = {one["target"] for one in found}
    seeds = sorted({len(one["seeds"]) for one in found})
    many = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    means = f"Means over {many} seeds, ± their standard deviation; ratios are geometric means of a seed's"
    text = f"Until {target}. {'One seed' if seeds == [1] else means}."
    missing = unrun(task)
    if missing:
        text += f" Not run: {', '.join(f'`{variant}`' for variant in missing)}."
    best = best_bits(found)
    lines = [_line(one, _BEST if one["setting"] in best.values() else "") for one in found]
    shown = f"{text}\n\n{table(_HEADER, lines, right=range(1, len(_HEADER)))}"
    return f"{shown}\n\n{_of_bits(found, best)}" if any(rival(one) not in _FIRST for one in found) else shown


def best_bits(found: Sequence[dict[str, Any]]) -> dict[str, str]:
    """For each rival that was run with more than one codec, the setting with the fewest payload bytes up.

    Of settings that reached the target in as many of their runs as any did.
    """
    best = {}
    for name in dict.fromkeys(map(rival, found)):
        own = [one for one in found if rival(one) == name and name not in _FIRST]
        if len(own) > 1 and any(one["reached"] for one in own):
            most = max(one["reached"] / one["runs"] for one in own)
            fitting = [one for one in own if one["reached"] / one["runs"] == most]
            best[name] = min(fitting, key=lambda one: one["mean"]["payload_bytes_up"])["setting"]
    return best


def rival(one: dict[str, Any]) -> str:
    """The algorithm of a setting, whatever its quantizer.

    >>> rival({"algorithm": "ca2fl (uplink.codec = eden)"})
    'ca2fl'
    """
    return _CODECS.sub("", one["algorithm"])


def _of_bits(found: Sequence[dict[str, Any]], best: Mapping[str, str]) -> str:
    settings = Counter(map(rival, found))
    others = [name for name in settings if name not in best and name not in _FIRST]
    text = (
        f"{_BEST.strip()} The rival's best bits of those that were run: the fewest payload bytes up."
        if best
        else ""
    )
    for words, names in (
        ("Run with one codec", [name for name in others if settings[name] == 1]),
        ("Never at the target", [name for name in others if settings[name] > 1]),
    ):
        text += f" {words}: {', '.join(f'`{name}`' for name in names)}." if names else ""
    return text.strip()


def unrun(task: str, names: Sequence[str] = ()) -> list[str]:
    """The variants of the suite headline-TASK that no command of these records ran, or of all its records."""
    commands = [source["command"] for name in names or records_of(task) for source in record(name)["sources"]]
    named = [re.findall(r"--variant (\S+)", command) for command in commands]
    if not all(named):  # a command without names runs all
        return []
    ran = set().union(*named)
    return [variant for variant in experiments.tables(f"headline-{task}")["variants"] if variant not in ran]


def _rank(one: dict[str, Any]) -> tuple[int, str]:
    name = rival(one)
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)


def _line(one: dict[str, Any], mark: str) -> tuple[str, ...]:
    reached = f"{one['reached']} of {one['runs']}"
    mean = one["mean"]
    return (
        setting(one["setting"]) + mark,
        reached,
        _spread(mean["uploads"], one["standard_deviation"]["uploads"]),
        verdicts.shown(verdicts.needed(one)),
        size(mean["payload_bytes_up"]),
        verdicts.shown(verdicts.saved(one, "payload_bytes_up")),
        size(mean["payload_bytes_down"]),
        verdicts.shown(verdicts.saved(one, "payload_bytes_down")),
        size(mean["wire_bytes_up"]),
        size(mean["wire_bytes_down"]),
    )


def setting(label: str) -> str:
    """
    >>> setting("qafel, eden 2 bits up, eden 2 bits down, K = 10, staleness.weight = rate")
    'qafel, eden 2 bits, staleness.weight = rate'
    >>> setting("fedasync, float32 up, float32 down, K = 1")
    'fedasync, float32'
    >>> setting("naive, qsgd 8 bits up, qsgd 4 bits down, K = 10")
    'naive, qsgd 8 bits up, qsgd 4 bits down'
    >>> setting("ca2fl (uplink.codec = eden), eden 2 bits up, float32 down, K = 10")
    'ca2fl, eden 2 bits up, float32 down'
    >>> setting("decoupled, float32 up, float32 down, K = 20")
    'decoupled, float32, K = 20'
    """
    found = _LABEL.fullmatch(_CODECS.sub("", label))
    if found is None:
        return label
    up, down, more = found["up"], found["down"], (found["more"] or "").replace(_USUAL, "")
    codec = up if up == down else f"{up} up, {down} down"
    k = "" if found["k"] in _KS else f", K = {found['k']}"
    return f"{found['algorithm']}, {codec}{k}{more}"


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return NOTHING
    return digits(mean) if deviation is None else f"{digits(mean)} ± {digits(deviation, 2)}"


digits_suite, mushrooms, text, fashion_mnist = (
    partial(_suite, task) for task in ("digits", "mushrooms", "text", "fashion-mnist")
)
