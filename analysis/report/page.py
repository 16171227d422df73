"""One self-contained page about any number of runs: plotly is in it, and it asks no network for anything.

Every string that comes from a file passes html.escape (in text), report_charts (in figures) or _json (in scripts).
"""

from __future__ import annotations

import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from qafel_analysis.figures.collect import Collection, Drawn, collect
from qafel_analysis.read.extras import extra
from qafel_analysis.read.rows import Target
from qafel_analysis.report import tables
from qafel_analysis.report.charts import charts
from qafel_analysis.report.messages import details
from qafel_analysis.report.shapes import Chart
from qafel_analysis.report.words import findings, headline
from qafel_analysis.tables.compare import Run, label
from qafel_analysis.tables.grid import size

from qafel_mpi.outputs import whole

_TIMELINE_INTERVALS = 2000  # as many as a browser draws at once without a pause
_SHOWN_HOSTS = 200  # rows of a run's placement


def write(paths: Sequence[Path], out: Path, target: Target | None = None, *, detailed: int = 2) -> Collection:
    """Read the runs and write the page. Returns what was read, with a message for each file that could not be.

    detailed: of how many runs the messages are drawn. Nothing is written where no run can be read. Raises
    MissingExtra without plotly.
    """
    library = extra("plotly.offline").get_plotlyjs()
    found = collect(paths, target, details=detailed, intervals=_TIMELINE_INTERVALS)
    if found.drawn:
        with whole(out) as part:
            part.write_text(page(found, library), encoding="utf-8", errors="backslashreplace")
    return found


def page(found: Collection, library: str) -> str:
    """The page as text. library: plotly's JavaScript."""
    general, close = list(charts(found)), list(details(found))
    groups = found.groups
    parts = {
        "style": _part("report.css"),
        "script": _part("report.js"),
        "library": library,
        "title": escape(_title(found)),
        "made": escape(_made()),
        "cards": "".join(
            f"<div class=card><b>{escape(big)}</b><span>{escape(small)}</span></div>"
            for big, small in headline(found)
        ),
        "findings": "".join(f"<li>{escape(words)}</li>\n" for words in findings(found)),
        "problems": _problems(found),
        "costs": tables.costs(groups),
        "bytes": tables.byte_counts(groups),
        "figures": "".join(map(_figure, general)),
        "tails": tables.tails(found.details),
        "messages": "".join(map(_figure, close))
        or "<p>No run here has messages: on one process, the virtual clock sends none.</p>",
        "runs": tables.runs(found.runs) + tables.faults(found.runs) + tables.energy(found.runs),
        "environments": "".join(map(_environment, found.drawn)),
        "data": _json([_chart_data(c) for c in (*general, *close)]),
    }
    # One pass over the template: what a part says is not searched for names of others.
    pieces = _part("report.html").split("@@")
    return "".join(parts[piece] if k % 2 else piece for k, piece in enumerate(pieces))


def _part(name: str) -> str:
    return resources.files("qafel_analysis.report").joinpath(name).read_text(encoding="utf-8")


def _title(found: Collection) -> str:
    data = sorted({str(run["dataset"]) for run in found.runs if run["dataset"]})
    about = ", ".join(data[:4]) + (" and others" if len(data) > 4 else "")
    count = len(found.drawn)
    return f"{count:,} run{'s' if count != 1 else ''}" + (f" on {about}" if about else "")


def _made() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    words = [Path(sys.argv[0]).name, *sys.argv[1:]]
    shown = words if len(words) < 14 else [*words[:8], "…", *words[-3:]]
    return f"Made {now} by: {' '.join(shown)}"


def _problems(found: Collection) -> str:
    listed = [*found.failures, *found.notes]
    if not listed:
        return ""
    count = len(found.failures)
    summary = f"{count} file{'s' if count != 1 else ''} could not be read" if count else "Notes on the files"
    items = "".join(f"<li>{escape(words)}</li>\n" for words in listed)
    return f"<section id=problems><h2>{summary}</h2><ul>{items}</ul></section>"


def _figure(chart: Chart) -> str:
    """The frame; the script draws into it. One menu per choice."""
    menus = "".join(
        f'<select aria-label="what the figure shows" data-figure="{escape(chart.name)}">'
        + "".join(f"<option>{escape(choice)}</option>" for choice in menu)
        + "</select>"
        for menu in chart.menus
    )
    return (
        f'<figure class="{"wide" if chart.wide else ""}" id="figure-{escape(chart.name)}">'
        f"<h3>{escape(chart.title)}</h3><div class=menus>{menus}</div>"
        f'<div class=plot style="height:{chart.height_px}px"></div><div class=legend></div>'
        f"<figcaption>{escape(chart.caption)}</figcaption></figure>\n"
    )


def _chart_data(chart: Chart) -> dict[str, Any]:
    variants = [{"choice": v.choice, "traces": v.traces, "layout": v.layout} for v in chart.variants]
    return {"name": chart.name, "variants": variants}


def _json(value: Any) -> str:
    """JSON that no string can break out of its script element with."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# --- one run ----------------------------------------------------------------------------------------

_ENVIRONMENT = ("started", "finished", "outcome", "host", "cpu", "mpi_library", "git_commit", "git_dirty")


def _environment(drawn: Drawn) -> str:
    """Command, configuration, versions and placement of a run, folded."""
    run, attributes = drawn.run, drawn.attributes
    facts = [(name.replace("_", " "), attributes[name]) for name in _ENVIRONMENT if name in attributes]
    if "memory_bytes" in attributes:
        facts.append(("memory", size(float(attributes["memory_bytes"]))))
    facts += _memory_of_rank_0(run)
    facts += _versions(attributes)
    experiment = str(attributes.get("experiment", ""))
    name = Path(run["run"])
    return (
        f"<details><summary>{escape(name.name)} <small>{escape(label(run))}, seed {escape(str(run['seed']))}"
        f"</small></summary><h4>As it was called</h4>{_copied(str(attributes.get('command_line', '')))}"
        f"<h4>To repeat it, with the configuration below in a file</h4>{_copied(_command(drawn))}"
        f"<h4>Configuration</h4>{_copied(experiment)}"
        f"<h4>Environment</h4>{tables.facts(facts)}<h4>Placement</h4>{_placement(drawn.ranks)}</details>\n"
    )


def _command(drawn: Drawn) -> str:
    ranks = int(drawn.attributes.get("ranks", 1))
    launcher = f"mpirun -n {ranks} " if ranks > 1 else ""
    file = shlex.quote(f"{Path(drawn.run['run']).stem}.toml")
    return f"{launcher}qafel-mpi run {file} --out repeated.h5"


def _memory_of_rank_0(run: Run) -> list[tuple[str, Any]]:
    most, growth = run.get("rank_0_memory_bytes"), run.get("rank_0_memory_growth_bytes")
    if most is None:
        return []
    grown = "" if growth is None else f", {'+' if growth >= 0 else '-'}{size(abs(growth))} in the last third"
    return [("rank 0's memory", f"{size(most)} at most{grown}")]


def _versions(attributes: dict[str, Any]) -> list[tuple[str, Any]]:
    try:
        return sorted(json.loads(str(attributes.get("versions", "{}"))).items())
    except (ValueError, AttributeError):
        return [("versions", attributes["versions"])]


def _copied(text: str) -> str:
    """Text to copy, with a button for it."""
    return (
        f"<div class=code><button type=button class=copy>copy</button><pre>{escape(text) or '–'}</pre></div>"
    )


def _placement(ranks: Any) -> str:
    """Ranks by host and device, so that a thousand of them fit on a screen."""
    counts: Counter[tuple[str, ...]] = Counter()
    for row in ranks:
        counts[tuple(_text(row[name]) for name in ("host", "device", "device_name", "mpi_library"))] += 1
    items = [f"{count} × {', '.join(filter(None, where))}" for where, count in counts.items()]
    more = [f"and {len(items) - _SHOWN_HOSTS} more"] if len(items) > _SHOWN_HOSTS else []
    return _list([*items[:_SHOWN_HOSTS], *more])


def _text(value: Any) -> str:
    return bytes(value).decode("utf-8", "replace")


def _list(items: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
