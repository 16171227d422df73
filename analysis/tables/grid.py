"""A table for people: headings and cells of text, printed to a terminal, as Markdown, LaTeX or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from qafel_analysis.tables.intervals import Interval
from rich import box
from rich.console import Console
from rich.table import Table

NOTHING = "–"


@dataclass(frozen=True)
class Grid:
    """Columns whose first `texts` are words, on the left; the rest are numbers, on the right."""

    caption: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    texts: int = 1


def to_terminal(grid: Grid) -> None:
    """Print it as wide as the terminal is; a pipe gets whole lines."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=grid.caption, title_justify="left")
    for column, heading in enumerate(grid.headings):
        if column < grid.texts:
            out.add_column(heading, overflow="fold")
        else:
            out.add_column(heading, justify="right")
    for row in grid.rows:
        out.add_row(*map(_printable, row))
    console = Console(markup=False, highlight=False)
    (console if console.is_terminal else Console(width=240, markup=False, highlight=False)).print(out)


def _printable(cell: str) -> str:
    """A cell may have come from a file: it moves no cursor and sets no colour."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in cell)


def to_markdown(grid: Grid) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", r"\|").replace("\n", " ") for cell in cells) + " |"

    rule = "|" + "|".join("---" if k < grid.texts else "---:" for k in range(len(grid.headings))) + "|"
    return "\n".join([line(grid.headings), rule, *map(line, grid.rows)]) + f"\n\n{grid.caption}\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "–": "--",
    "‖": r"$\|$",
    "τ": r"$\tau$",
    "δ": r"$\delta$",
}


def to_latex(grid: Grid) -> str:
    """A booktabs table; put \\usepackage{booktabs} into the preamble."""

    def line(cells: tuple[str, ...]) -> str:
        words = ("".join(_LATEX.get(c, c) for c in cell.replace("\n", " ")) for cell in cells)
        return "    " + " & ".join(words) + r" \\"

    columns = "l" * grid.texts + "r" * (len(grid.headings) - grid.texts)
    caption = "".join(_LATEX.get(c, c) for c in grid.caption)
    return "\n".join(
        [
            r"\begin{table}",
            rf"  \caption{{{caption}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            line(grid.headings),
            r"    \midrule",
            *map(line, grid.rows),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_csv(grid: Grid) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([heading.replace("\n", " ") for heading in grid.headings])
    writer.writerows(grid.rows)
    return text.getvalue()


# --- cells ------------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Four digits, with separators.

    >>> number(12345), number(1.23456), number(1e300), number(None), number(float("inf"))
    ('12,345', '1.235', '1e+300', '–', '∞')
    """
    if value is None or value != value:
        return NOTHING
    if abs(value) >= 1e15:  # more digits than a float has
        return f"{value:.4g}".replace("inf", "∞")
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 1000 else f"{value:.4g}"


def size(value: float | None) -> str:
    """Bytes in decimal units, as network links count.

    >>> size(117_128), size(12), size(999_700), size(999_999_999), size(0)
    ('117 kB', '12 B', '1 MB', '1 GB', '0 B')
    """
    units = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
    return _in_units(value, [(unit, 1000.0**power) for power, unit in enumerate(units)])


def duration(seconds: float | None) -> str:
    """In the unit that suits it.

    >>> duration(0.0123), duration(0.99996), duration(0.0009997), duration(0.0), duration(7200)
    ('12.3 ms', '1 s', '1 ms', '0 µs', '7200 s')
    """
    return _in_units(seconds, [("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)])


def _in_units(value: float | None, units: Sequence[tuple[str, float]]) -> str:
    """Three digits of the value in the first unit, from the smallest on, in which they are no thousand."""
    if value is None or value != value:
        return NOTHING
    digits = 0.0
    for unit, factor in units:
        digits = float(f"{value / factor:.3g}")
        if abs(digits) < 1000:
            return f"{digits:g} {unit}"
    return f"{value / factor:.0f} {unit}".replace("inf", "∞")


def spread(mean: float | None, deviation: float | None) -> str:
    """mean ± standard deviation."""
    return number(mean) if deviation is None else f"{number(mean)} ± {number(_two_digits(deviation))}"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")


def times(ratio: Interval | None) -> str:
    """How many times less, with its interval.

    >>> times(Interval(2.0, 1.5, 2.5)), times(Interval(0.5, 0.0, 0.75)), times(None)
    ('2.00× [1.50, 2.50]', '≤ 0.50× [0.00, 0.75]', '–')
    """
    if ratio is None:
        return NOTHING
    return f"{ratio.sign}{ratio.value:.2f}×{bounds(ratio)}"


def bounds(ratio: Interval) -> str:
    """Nothing where there is no interval."""
    if not ratio.known:
        return ""
    low, high = (f"{end:.2f}" if isfinite(end) else "∞" for end in (ratio.low, ratio.high))
    return f" [{low}, {high}]"
