"""A page is Markdown in which some blocks are generated:

    <!-- generated: NAME -->

    what a function wrote

    <!-- end: NAME -->

The text around the blocks is written by hand and never touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_MARKER = re.compile(r"<!-- (?P<what>generated|end): (?P<name>[\w-]+) -->\n?")


class PageError(ValueError):
    """Markers that do not pair up, or a block that nothing writes."""


def pages() -> list[Path]:
    """Every page that may hold generated blocks."""
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("jobs/*.md")])


def block_names(text: str) -> list[str]:
    """The names of a page's blocks, in order. Raises PageError where the markers do not pair up."""
    names: list[str] = []
    open_block: str | None = None
    for marker in _MARKER.finditer(text):
        what, name = marker["what"], marker["name"]
        if what == "generated":
            if open_block is not None:
                raise PageError(f"block {name} begins inside block {open_block}")
            open_block = name
            names.append(name)
        elif name == open_block:
            open_block = None
        else:
            raise PageError(f"block {name} ends without having begun")
    if open_block is not None:
        raise PageError(f"block {open_block} has no <!-- end: {open_block} -->")
    return names


def rendered(text: str, blocks: Mapping[str, Callable[[], str]]) -> str:
    """The page with every block written anew. blocks: by name, the function that returns a block's Markdown.

    Raises PageError where the markers do not pair up, or a block's name is not in `blocks`.
    """
    for name in block_names(text):
        if name not in blocks:
            raise PageError(f"nothing writes block {name}; known blocks: {', '.join(sorted(blocks))}")
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->"
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        text = f"{head}{begin}\n{blocks[name]().strip()}\n\n{end}{tail}"
    return text


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[int] = ()) -> str:
    """A Markdown table. right: the columns whose text goes to the right, counted from 0.

    >>> print(table(["codec", "bytes"], [["qsgd", 14]], right=[1]))
    | codec | bytes |
    |---|---:|
    | qsgd | 14 |
    """
    to_right = set(right)
    rule = "|" + "|".join("---:" if at in to_right else "---" for at in range(len(header))) + "|"
    lines = [_line(header), rule, *(_line(row) for row in rows)]
    return "\n".join(lines)


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
