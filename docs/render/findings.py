"""docs/findings.md: which function makes which claim's block, and the list of verdicts at its top."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

from docs.render import (
    findings_codecs,
    findings_load,
    findings_messages,
    findings_speeds,
    findings_tasks,
    findings_theory,
    findings_tradeoff,
)
from docs.render.pages import table
from docs.render.records import measured, not_measured
from docs.render.verdicts import Finding


class Claim(NamedTuple):
    """Its heading in the page, what computes it, the records that may be missing, and their group of measure.sh."""

    heading: str
    compute: Callable[[], Finding]
    records: Sequence[str] = ()
    group: str = "findings"


CLAIMS: dict[str, Claim] = {  # by block
    "finding-exact": Claim("No quantization", findings_codecs.exact),
    "finding-bits": Claim("Bits", findings_codecs.bits),
    "finding-bits-mushrooms": Claim(
        "Bits, on mushrooms", findings_codecs.bits_mushrooms, ("findings-grid-mushrooms",)
    ),
    "finding-bits-cnn": Claim(
        "Bits, with the paper's CNN", findings_tasks.cnn, ("headline-fashion-mnist",), "headline"
    ),
    "finding-bits-text": Claim(
        "Bits, with a transformer", findings_tasks.transformer, ("headline-text",), "headline"
    ),
    "finding-grid-cnn": Claim(
        "The paper's grid, with its CNN", findings_codecs.grid_cnn, ("findings-grid-cnn",), "grids"
    ),
    "finding-grid-text": Claim(
        "The paper's grid, with a transformer", findings_codecs.grid_text, ("findings-grid-text",), "grids"
    ),
    "finding-hidden": Claim("The hidden state", findings_codecs.hidden),
    "finding-staleness": Claim("Staleness", findings_theory.staleness, ("findings-staleness",)),
    "finding-cross-term": Claim("The cross term", findings_theory.cross_term, ("findings-cross-term",)),
    "finding-buffer": Claim("The buffer", findings_load.buffers),
    "finding-concurrency": Claim("Concurrency", findings_load.concurrency),
    "finding-tradeoff": Claim("Errors and uploads", findings_tradeoff.tradeoff, findings_tradeoff.RECORDS),
    "finding-server-codec": Claim("The server's quantizer", findings_codecs.server_codecs),
    "finding-skew": Claim("Skewed labels", findings_load.skew),
    "finding-speeds": Claim("Unequal speeds", findings_speeds.speeds, findings_speeds.RECORDS),
    "finding-tensor": Claim("One scale for a whole tensor", findings_messages.whole_tensor),
    "finding-links": Claim(
        "Links of many rates", findings_messages.links, ("findings-link-rates",), "link-rates"
    ),
    "finding-budget": Claim("One budget of bytes", findings_load.budget),
    "finding-clocks": Claim("Two clocks", findings_messages.clocks, ("findings-replays",), "clocks"),
}


@cache
def _finding(block: str) -> Finding | None:
    """None where a record of the claim is missing."""
    claim = CLAIMS[block]
    return claim.compute() if all(map(measured, claim.records)) else None


def verdicts() -> str:
    """A line a claim."""
    lines: list[Sequence[str]] = []
    for block, claim in CLAIMS.items():
        link, found = f"[{claim.heading}](#{_anchor(claim.heading)})", _finding(block)
        if found is None:
            lines.append((link, "not measured yet", "", "", ""))
        else:
            lines.append((link, found.verdict, *map(str, found.counts)))
    return table(("claim", "verdict", "statements that hold", "fail", "are open"), lines, right=(2, 3, 4))


def _anchor(heading: str) -> str:
    return heading.lower().replace("'", "").replace(",", "").replace(" ", "-")


def blocks() -> dict[str, Callable[[], str]]:
    """Every block of the page."""
    return {"findings": verdicts} | {block: _block(block) for block in CLAIMS}


def _block(block: str) -> Callable[[], str]:
    def markdown() -> str:
        found = _finding(block)
        return not_measured(CLAIMS[block].group) if found is None else found.markdown()

    return markdown
