"""Blocks of docs/results.md: what the server's own work costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from docs.render.codecs import passes
from docs.render.pages import table
from docs.render.records import content, digits, measured, met, not_measured, origin, span, time, values

RECORDS = {"server-sizes": "", "server-eden": ", eden both ways", "server-threads": ""}
WITH_RULES = {"server-rules-qsgd": "qsgd", "server-rules-eden": "eden"}
Row = dict[str, Any]
Line = tuple[str, ...]
LEAST = {29_282: 2.0, 11_689_512: 2.5}  # times the speed of the older commit, by parameters
MOST_COPIES = {11_689_512: 4.5}  # of a step, by parameters
WITH_MOMENTS = ("fadas",)  # a target for the others: Adam reads and writes more vectors than that


def server() -> str:
    """Receive, step and both: times, memory passes, copies."""

    def line(label: str, row: Row) -> Line:
        about = row["parameters"]
        return (
            about["algorithm"] + label,
            f"{about['d']:,}",
            str(about["buffer"]),
            str(about["threads"]),
            about["operation"],
            span(values(row, "median_us"), time),
            f"{span(passes(row))}×",
            span(values(row, "copies")),
            _judged(row),
        )

    header = (
        "",
        "parameters",
        "K",
        "threads",
        "",
        "time",
        "over the memory pass",
        "copies of the vector",
        "target",
    )
    return _table(RECORDS, header, line, right=(1, 2, 3, 5, 6, 7))


def _judged(row: Row) -> str:
    """A step's copies against their target, where there is one."""
    about = row["parameters"]
    wanted = MOST_COPIES.get(about["d"])
    if wanted is None or about["operation"] != "step" or about["algorithm"] in WITH_MOMENTS:
        return ""
    return f"at most {wanted:g}, {met(values(row, 'copies'), wanted, at_least=False)}"


def rules() -> str:
    """The time with norms and biases sent exact over that without rules."""

    def line(label: str, row: Row) -> Line:
        about = row["parameters"]
        return (
            f"{label}, 4 bits both ways",
            f"{about['d']:,}",
            about["operation"],
            span(values(row, "median_us"), time),
            f"{span(values(row, 'over_plain'))}×",
        )

    header = ("", "parameters", "", "time with rules", "over the time without")
    return _table(WITH_RULES, header, line, right=(1, 3, 4))


def _table(
    labels: dict[str, str], header: Line, line: Callable[[str, Row], Line], right: tuple[int, ...]
) -> str:
    """A line of each row of the records measured. labels: what each record's rows are called."""
    names = [name for name in labels if measured(name)]
    if not names:
        return not_measured("server")
    lines = [line(labels[name], row) for name in names for row in content(name)]
    return f"{table(header, lines, right=right)}\n\n{origin(*names)}"


def older() -> str:
    """The step in turns with an older commit's."""
    if not measured("server-older"):
        return not_measured("server")
    found = content("server-older")
    lines = []
    for row in found["rows"]:
        wanted = LEAST[row["d"]]
        lines.append(
            (
                row["codec"],
                f"{row['d']:,}",
                f"`{row.get('older', found['older'])}`",
                time(1e6 * row["older_median_s"]),
                time(1e6 * row["median_s"]),
                digits(row["ratio"], 2),
                f"at least {wanted:g}, {met([row['ratio']], wanted, at_least=True)}",
            )
        )
    header = ("", "parameters", "older commit", "its step", "step", "speed", "target")
    return f"{table(header, lines, right=(1, 3, 4, 5))}\n\n{origin('server-older')}"
