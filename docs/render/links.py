"""Blocks of docs/results.md: slow links."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qafel_analysis.theory.pace import QUANTITIES

from docs.render.pages import table
from docs.render.records import content, origin, ranged

_FEDBUFF = "FedBuff, float32"
_NAMES = {  # words for a column -> what `pace` calls it: by its codecs, too, where the runs have several
    "QAFeL, 4 bits up and down": ("qafel", "qafel, qsgd 4 bits up, qsgd 4 bits down"),
    "QAFeL, eden, 1 bit up and down": ("qafel, eden 1 bits up, eden 1 bits down",),
    _FEDBUFF: ("fedbuff",),
}
_SHOWN = ("wire_bytes_up", "per_step", "to_target", "steps", "upload", "train", "step")


def _links(columns: dict[str, str]) -> str:
    """Quantities by link. columns: words for a link -> its record of `pace`."""
    found = {link: content(record) for link, record in columns.items()}
    shown = [words for words in _NAMES if any(_of(one["algorithms"], words) for one in found.values())]
    others = [words for words in shown if words != _FEDBUFF]
    lines = []
    for link, one in found.items():
        for quantity in _SHOWN:
            if quantity == "wire_bytes_up" and link != next(iter(found)):
                continue  # the same on every link
            own = [(_of(one["algorithms"], words) or {}).get(quantity) for words in shown]
            over = [_of(one["fedbuff_over"][quantity], words) for words in others]
            where = "any" if quantity == "wire_bytes_up" else link
            lines.append((where, QUANTITIES[quantity], *map(ranged, (*own, *over))))
    header = ("link", "", *shown, *(f"FedBuff / {words.removesuffix(' up and down')}" for words in others))
    return f"{table(header, lines, right=range(2, len(header)))}\n\n{origin(*columns.values())}"


def _of(found: Mapping[str, Any], words: str) -> Any:
    """What a record has under one of a column's names; None where it has nothing."""
    return next((found[name] for name in _NAMES[words] if name in found), None)


def link_cnn() -> str:
    """The paper's CNN."""
    return _links(
        {
            "100 Mbit/s": "link-cnn-100mbit",
            "100 Mbit/s, 10 ms away": "far-cnn",
            "1 Gbit/s": "link-cnn-1gbit",
        }
    )


def link_resnet18() -> str:
    """Vectors of ResNet-18's size."""
    return _links(
        {
            "100 Mbit/s": "link-resnet18-100mbit",
            "100 Mbit/s, 10 ms away": "far-resnet18",
            "1 Gbit/s": "link-resnet18-1gbit",
        }
    )
