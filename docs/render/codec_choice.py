"""Blocks of docs/codecs.md: what the recommended codecs do on real updates and in runs, and eden's error and bias."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from docs.render.headline import joined, records_of
from docs.render.pages import table
from docs.render.records import content, digits, origin
from docs.render.verdicts import needed, saved, shown

_TASKS = {
    "digits": "digits, mlp",
    "mushrooms": "mushrooms, logistic regression",
    "fashion-mnist": "Fashion-MNIST, the paper's CNN",
    "text": "stdlib-text, transformer",
}
# Weights that differ from the task's usual ones are another thing; the label says so where one has them.
_EDEN = re.compile(
    r"qafel, eden (\d) bits up, eden (\d) bits down, K = \d+(?:, staleness\.weight = polynomial)?"
)
_ROWS = (
    "eden, 1 bits", "topk, 1 bits' worth", "eden, 2 bits", "qsgd, 2 bits", "qsgd, 4 bits, zstd",
    "topk, 2 bits' worth",
    "eden, 4 bits", "qsgd, 4 bits", "fp4, nvfp4, nearest", "topk, 4 bits' worth", "qsgd, 6 bits, zstd",
    "qsgd, 8 bits, zstd",
)  # fmt: skip


def runs() -> str:
    """Uploads and bytes up of eden by bits, over FedBuff's, on each task where it was run."""
    lines = []
    for task, words in _TASKS.items():
        for one in joined(task):
            if found := _EDEN.fullmatch(one["setting"]):
                reached = f"{one['reached']} of {one['runs']}"
                ratios = (shown(needed(one)), shown(saved(one, "payload_bytes_up")))
                lines.append((words, *found.groups(), reached, *ratios))
    header = ("", "bits up", "bits down", "runs at the target", "uploads / FedBuff's [95%]",
              "FedBuff's payload up / this [95%]")  # fmt: skip
    names = [name for task in _TASKS for name in records_of(task)]
    return f"{table(header, lines, right=range(1, 6))}\n\n{origin(*names)}"


def updates() -> str:
    """The bits and the error of some codecs on real updates: the least and the greatest of four runs' means."""
    found = [{one["codec"]: one for one in run["codecs"]} for run in content("codec-error")]
    lines = [
        (name, *(_range([each[name][key] for each in found]) for key in ("bits_per_element", "error")))
        for name in _ROWS
    ]
    header = ("", "bits an element, wire", "‖Q(u) − u‖²/‖u‖²")
    return f"{table(header, lines, right=(1, 2))}\n\n{origin('codec-error')}"


def _range(values: Sequence[float]) -> str:
    low, high = digits(min(values), 2), digits(max(values), 2)
    return low if low == high else f"{low} to {high}"


def gaussian() -> str:
    """Errors of eden and fp4 on Gaussian vectors, and eden's bias on heavy tails."""
    found = content("codec-gaussian")
    errors = [(_name(one["settings"]), digits(one["error"])) for one in found["errors"]]
    ways = list(dict.fromkeys(_options(one["options"]) for one in found["biases"]))
    by_bits: dict[int, dict[str, str]] = {}
    for one in found["biases"]:
        by_bits.setdefault(one["bits"], {})[_options(one["options"])] = _range(one["biases"])
    biases = [(_bits(bits), *(own[way] for way in ways)) for bits, own in by_bits.items()]
    return "\n\n".join(
        (
            table(("Gaussian vectors", "E‖Q(x) − x‖²/‖x‖²"), errors, right=(1,)),
            table(("heavy tails: eden's bias", *ways), biases, right=range(1, 1 + len(ways))),
            origin("codec-gaussian"),
        )
    )


def _name(settings: Mapping[str, Any]) -> str:
    """
    >>> _name({"codec": "eden", "bits": 2, "scale": "unbiased"})
    'eden, 2 bits, unbiased'
    """
    parts = [settings["codec"], *([_bits(settings["bits"])] if "bits" in settings else [])]
    return ", ".join([*parts, *(settings[key] for key in ("scale", "format", "rounding") if key in settings)])


def _bits(bits: int) -> str:
    return f"{bits} bits" if bits > 1 else "1 bit"


def _options(options: Mapping[str, Any]) -> str:
    """
    >>> _options({}), _options({"bucket": 4096})
    ('as by default', 'bucket = 4096')
    """
    return ", ".join(f"{key} = {value}" for key, value in options.items()) or "as by default"
