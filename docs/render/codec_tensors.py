"""A block of docs/results.md: codecs' errors by kinds of a transformer's tensors, and its first steps' lengths."""

from __future__ import annotations

import math
import re
from typing import Any

from docs.render.pages import table
from docs.render.records import content, digits, measured, not_measured, origin

RECORD = "codec-tensors"
_KINDS = {  # of tensors, by name and number of dimensions: the first that takes one
    "embeddings": (r"^w[tp]e", 2),
    "matrices of the blocks": (r"", 2),
    "biases at a branch's end": (r"c_proj", 1),
    "other biases, and norms": (r"", 1),
}


def tensors() -> str:
    """Kinds of tensors of the transformer: how far they move, and each codec's error on them."""
    if not measured(RECORD):
        return not_measured("codec_error")
    found = content(RECORD)
    codecs = list(found["payload_bytes"])
    header = ("", "elements", "share of ‖u‖²", "root mean square of an element", *codecs)
    blocks = []
    for moment in found["moments"]:
        lines = [_line(name, own, codecs) for name, own in kinds(moment["tensors"]).items()]
        blocks.append(
            f"Server step {moment['step']}, {moment['updates']} updates:\n\n"
            f"{table(header, lines, right=range(1, len(header)))}"
        )
    first = ", ".join(digits(one, 2) for one in found["step_norms"]["first"])
    said = (
        f"The first server steps of FedBuff have lengths of {first}, and the median of those after them has "
        f"{digits(found['step_norms']['median_after'], 2)}."
    )
    return "\n\n".join((*blocks, said, origin(RECORD)))


def kinds(found: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The tensors by kind.

    >>> of = [("wte.weight", [256, 64]), ("h.0.attn.c_proj.bias", [64]), ("ln_f.weight", [64])]
    >>> {kind: len(own) for kind, own in kinds([{"name": n, "shape": s} for n, s in of]).items()}
    {'embeddings': 1, "biases at a branch's end": 1, 'other biases, and norms': 1}
    """
    by_kind: dict[str, list[dict[str, Any]]] = {name: [] for name in _KINDS}
    for one in found:
        fits = (
            name
            for name, (expression, rank) in _KINDS.items()
            if len(one["shape"]) == rank and re.search(expression, one["name"])
        )
        by_kind[next(fits)].append(one)
    return {name: own for name, own in by_kind.items() if own}


def _line(name: str, own: list[dict[str, Any]], codecs: list[str]) -> tuple[str, ...]:
    return (
        f"{name} ({len(own)})",
        f"{sum(math.prod(one['shape']) for one in own):,}",
        digits(sum(one["share"] for one in own), 2),
        _range([one["root_mean_square"] for one in own]),
        *(_range([one["errors"][codec] for one in own]) for codec in codecs),
    )


def _range(values: list[float]) -> str:
    """Of a single tensor its number, else those of the least and the greatest.

    >>> _range([0.5]), _range([0.004, 12.5])
    ('0.50', '0.0040 to 12')
    """
    low, high = digits(min(values), 2), digits(max(values), 2)
    return low if low == high else f"{low} to {high}"
