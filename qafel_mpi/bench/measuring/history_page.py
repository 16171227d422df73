"""The history of a benchmark as one HTML page without scripts: its changes, newest first, and a picture a series."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from qafel_mpi.bench.measuring.history import COLUMNS, MAX_P, MIN_CHANGE, Series

WIDTH, HEIGHT, MARGIN = 720, 160, 12
_STYLE = """
:root { color-scheme: light dark; --line: #767676; --point: #0072b2; --mark: #d55e00; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .15rem .9rem .15rem 0; border-bottom: 1px solid var(--line); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; border: 1px solid var(--line); }
circle { fill: var(--point); }
line.mean { stroke: var(--point); stroke-width: 1.5; opacity: .6; }
line.change { stroke: var(--mark); stroke-width: 1.5; stroke-dasharray: 4 3; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
"""


def page(found: Sequence[Series]) -> str:
    """The whole page, as text."""
    title = "Benchmarks over time"
    parts = [
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
        f"<p>{escape(_about(found))}</p>",
        _changes(found),
        *(_section(number, one) for number, one in enumerate(found)),
        "</body></html>\n",
    ]
    return "\n".join(parts)


def _about(found: Sequence[Series]) -> str:
    files = {(point.started, point.file) for one in found for point in one.points}
    if not files:
        return "No row is in two files."
    (first, _), (last, _) = min(files), max(files)
    return (
        f"{len(files)} files from {_date(first)} to {_date(last)}, {len(found)} series. A change is one by at least "
        f"{MIN_CHANGE:.0%} with p ≤ {MAX_P:g}; a few files can show none."
    )


def _changes(found: Sequence[Series]) -> str:
    rows = sorted(
        ((one.points[c.index], one, c) for one in found for c in one.changes), key=lambda row: row[0].started
    )
    if not rows:
        return "<p>No change was found.</p>"
    head = "<tr><th>since</th><th>commit</th><th>row</th><th>before</th><th>after</th><th>change</th><th>p</th></tr>"
    lines = []
    for at, one, c in reversed(rows):
        link = f'<a href="#s{found.index(one)}">{escape(one.label)}</a>'
        cells = [_date(at.started), f"<code>{escape(at.commit[:10])}</code>", link]
        numbers = [
            f"{c.before:.4g}",
            f"{c.after:.4g} {COLUMNS[one.column]}",
            f"{c.change:+.1%}",
            f"{c.p_value:.1g}",
        ]
        texts = "".join(f"<td>{cell}</td>" for cell in cells)
        texts += "".join(f'<td class="number">{number}</td>' for number in numbers)
        lines.append(f"<tr>{texts}</tr>")
    return f"<h2>Changes</h2><table>{head}{''.join(lines)}</table>"


def _section(number: int, one: Series) -> str:
    values = [point.value for point in one.points]
    low, high = min(values), max(values)
    step = (WIDTH - 2 * MARGIN) / max(1, len(values) - 1)

    def x(index: float) -> float:
        return MARGIN + step * index

    def y(value: float) -> float:
        return HEIGHT - MARGIN - (HEIGHT - 3 * MARGIN) * ((value - low) / (high - low) if high > low else 0.5)

    drawn = [
        f'<circle cx="{x(i):.1f}" cy="{y(p.value):.1f}" r="3"><title>{escape(_told(p.started, p.commit, p.file))}: '
        f"{p.value:.4g}</title></circle>"
        for i, p in enumerate(one.points)
    ]
    bounds = [0, *(change.index for change in one.changes), len(values)]
    for begin, end in pairwise(bounds):
        mean = sum(values[begin:end]) / (end - begin)
        drawn.append(_line("mean", x(begin), y(mean), x(end - 1), y(mean)))
    drawn += [
        _line("change", x(c.index - 0.5), MARGIN, x(c.index - 0.5), HEIGHT - MARGIN) for c in one.changes
    ]
    drawn.append(f'<text x="{MARGIN}" y="{MARGIN + 2}">{high:.4g} {COLUMNS[one.column]}</text>')
    drawn.append(f'<text x="{MARGIN}" y="{HEIGHT - 2}">{low:.4g}</text>')
    label = f"{one.label}, {one.column}"
    return (
        f'<h2 id="s{number}">{escape(label)}</h2><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">{"".join(drawn)}</svg>'
    )


def _line(kind: str, *ends: float) -> str:
    x1, y1, x2, y2 = (f"{value:.1f}" for value in ends)
    return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _told(started: str, commit: str, file: str) -> str:
    return f"{_date(started)}, {commit[:10] or 'no commit'}, {file}"


def _date(started: str) -> str:
    return started[:16].replace("T", " ")
