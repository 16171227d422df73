"""Blocks of docs/results.md: slow links."""

from __future__ import annotations

from qafel_analysis.theory.pace import QUANTITIES

from docs.render.pages import table
from docs.render.records import content, origin, ranged

_SHOWN = ("wire_bytes_up", "per_step", "to_target", "steps", "upload", "train", "step")


def _links(columns: dict[str, str]) -> str:
    """Quantities by link. columns: words for a link -> its record of `pace`."""
    lines = []
    for link, name in columns.items():
        found = content(name)
        for quantity in _SHOWN:
            if quantity == "wire_bytes_up" and link != next(iter(columns)):
                continue  # the same on every link
            qafel, fedbuff = (found["algorithms"][a][quantity] for a in ("qafel", "fedbuff"))
            over = found["fedbuff_over"][quantity].get("qafel")
            where = "any" if quantity == "wire_bytes_up" else link
            lines.append((where, QUANTITIES[quantity], *map(ranged, (qafel, fedbuff, over))))
    header = ("link", "", "QAFeL, 4 bits up and down", "FedBuff, float32", "FedBuff / QAFeL")
    return f"{table(header, lines, right=(2, 3, 4))}\n\n{origin(*columns.values())}"


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
