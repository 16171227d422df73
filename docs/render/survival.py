"""Blocks about faults: what checkpoints cost, and runs under a schedule of faults."""

from __future__ import annotations

from typing import Any

from docs.render.pages import table
from docs.render.records import NOTHING, content, digits, first, measured, met, not_measured, origin, time
from qafel_mpi.bench.chaos.turns import FREE_SHARE

TASKS = {"chaos-digits": "digits", "chaos-cnn": "CNN"}
LEAST_GOODPUT, MOST_SHARE = 98, 1  # percent


def checkpoints() -> str:
    """A checkpoint's cost by parameters, and its share of a run."""
    if not measured("checkpoint"):
        return not_measured("checkpoint")
    lines = []
    for row in content("checkpoint"):
        share = 100 * float(first(row, "share"))
        lines.append(
            (
                f"{row['parameters']['d']:,}",
                f"{first(row, 'bytes_moved') / 1e6:,.1f} MB",
                time(first(row, "held_us")),
                time(first(row, "write_us")),
                f"every {first(row, 'every_s'):,.0f} s",
                f"{digits(share, 2)}%",
                f"at most {MOST_SHARE}%, {met([share], MOST_SHARE, at_least=False)}",
            )
        )
    header = (
        "parameters",
        "a checkpoint",
        "the run stands still",
        "a thread writes",
        "by default",
        "share",
        "target",
    )
    return f"{table(header, lines, right=range(6))}\n\n{origin('checkpoint')}"


def faults() -> str:
    """Runs under faults beside runs without: by kind, and all together."""
    names = [name for name in TASKS if measured(name)]
    if not names:
        return not_measured("chaos")
    kinds, totals = [], []
    for name in names:
        for row in content(name):
            if row["parameters"]["fault"] == "all":
                totals.append((TASKS[name], *_total(row)))
            else:
                kinds.append((TASKS[name], *_kind(row)))
    header = (
        "",
        "fault",
        "injected",
        "lost",
        "wrong results",
        "time to notice, and longest",
        "time to recover",
    )
    of_all = (
        "",
        "ranks",
        "faults",
        "goodput (95%, over turns)",
        "target",
        "used updates",
        "lost",
        "wrong results",
        "hangs",
    )
    tables = (table(header, kinds, right=range(2, 7)), table(of_all, totals, right=range(1, 9)))
    missing = " ".join(_missing(TASKS[name], content(name)) for name in names)
    return "\n\n".join([*tables, missing, origin(*names)])


def _missing(task: str, found: list[dict[str, Any]]) -> str:
    """Which part of the goodput that is missing are updates that cuts took back, and what goodput leaves out."""
    by_kind = {row["parameters"]["fault"]: row for row in found}
    goodput, used, without = (
        float(first(by_kind["all"], name)) for name in ("goodput", "used", "used_without")
    )
    gone = f"{100 * (1 - goodput):.2f}% of goodput is" if goodput < 1 else "no goodput is"
    lost = starts_s = 0.0
    if "cut" in by_kind:
        lost, times, mean_us = (
            float(first(by_kind["cut"], name)) for name in ("lost", "recovered", "mean_us")
        )
        starts_s = 1e-6 * times * mean_us
    return (
        f"{task}: {gone} missing, and cuts took back {100 * lost / (lost + used):.2f}% of the updates. With every "
        f"client rank counted at all times, dead ones too, the job used {100 * FREE_SHARE * used / without:.1f}% as "
        f"many updates per second of training; to start again after its cuts took {starts_s:.0f} s more."
    )


def _kind(row: dict[str, Any]) -> tuple[str, ...]:
    launch = row["launches"][0]
    noticed = (
        f"{time(launch['notice_us'])}, {time(launch['notice_max_us'])}" if "notice_us" in launch else NOTHING
    )
    return (
        row["parameters"]["fault"],
        f"{launch['injected']:,.0f}",
        f"{launch['lost']:,.0f}",
        str(launch["wrong"]),
        noticed,
        time(launch["median_us"]),
    )


def _total(row: dict[str, Any]) -> tuple[str, ...]:
    launch = row["launches"][0]
    share = 100 * float(launch["goodput"])
    low, high = (100 * float(bound) for bound in launch["ratio_ci95"])
    return (
        str(row["parameters"]["ranks"]),
        f"{launch['faults']:,.0f}",
        f"{digits(share)}% ({digits(low)}% to {digits(high)}%)",
        f"at least {LEAST_GOODPUT}%, {met([share], LEAST_GOODPUT, at_least=True)}",
        f"{launch['used']:,.0f}",
        f"{launch['lost']:,.0f}",
        str(launch["wrong"]),
        f"{launch['hangs']:,.0f}",
    )
