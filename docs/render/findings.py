"""docs/findings.md: which function makes which claim's block, and the list of verdicts at its top."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from docs.render import findings_codecs, findings_load
from docs.render.pages import table
from docs.render.verdicts import Finding

# Block -> its heading in the page, and the function.
CLAIMS: dict[str, tuple[str, Callable[[], Finding]]] = {
    "finding-exact": ("No quantization", findings_codecs.exact),
    "finding-bits": ("Bits", findings_codecs.bits),
    "finding-hidden": ("The hidden state", findings_codecs.hidden),
    "finding-buffer": ("The buffer", findings_load.buffers),
    "finding-concurrency": ("Concurrency", findings_load.concurrency),
    "finding-server-codec": ("The server's quantizer", findings_codecs.server_codecs),
    "finding-skew": ("Skewed labels", findings_load.skew),
    "finding-budget": ("One budget of bytes", findings_load.budget),
}


@cache
def _finding(block: str) -> Finding:
    return CLAIMS[block][1]()


def verdicts() -> str:
    """A line a claim."""
    lines = [
        (
            f"[{heading}](#{_anchor(heading)})",
            _finding(block).verdict,
            f"{sum(check.holds is True for check in _finding(block).checks)} of {len(_finding(block).checks)}",
        )
        for block, (heading, _) in CLAIMS.items()
    ]
    return table(("claim", "verdict", "statements that hold"), lines, right=(2,))


def _anchor(heading: str) -> str:
    return heading.lower().replace("'", "").replace(" ", "-")


def blocks() -> dict[str, Callable[[], str]]:
    """Every block of the page."""
    return {"findings": verdicts} | {block: _block(block) for block in CLAIMS}


def _block(block: str) -> Callable[[], str]:
    return lambda: _finding(block).markdown()
