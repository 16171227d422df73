"""Blocks of docs/replay.md and docs/results.md: what digests cost, how fast a replay is."""

from __future__ import annotations

from docs.render.pages import table
from docs.render.records import first, interval, met, one, origin, span, time, values


def digests() -> str:
    """The digest of an upload as a share of rank 0's work for it in a run: medians of launches, with their range."""
    lines = []
    for size, words in ((15_001, "15 kB"), (5_900_003, "5.9 MB")):
        row = one("digests", operation="digest", bytes=size)
        shares = [100 * share for share in values(row, "share")]
        lines.append(
            (
                f"upload of {words}",
                span(values(row, "reference_median_us"), time),
                span(values(row, "extra_us"), time),
                span(values(row, "work_us"), time),
                f"{span(shares)}%",
                f"below 1%: {met(shares, 1.0, at_least=False)}",
            )
        )
    header = ("", "to add it to the sum", "its digest", "rank 0's work for it in a run", "share", "target")
    return f"{table(header, lines, right=(1, 2, 3, 4))}\n\n{origin('digests')}"


TASKS = {  # by the name in the record
    "cnn, batch 32": "the paper's CNN on made images, batches of 32",
    "logistic regression": "logistic regression, `mushrooms-qsgd` on made data of that shape",
    "digits, 32 together": "`digits`",
}
LEAST = 0.9  # of the virtual clock's updates a second


def replay() -> str:
    """Updates a second of replays, beside the virtual clock's."""
    lines = []
    for task, words in TASKS.items():
        row = one("replay", operation="replay", task=task)
        ratio = first(row, "ratio")
        lines.append(
            (
                words,
                f"{1e6 / values(row, 'median_us')[0]:,.0f}",
                f"{1e6 / values(row, 'reference_median_us')[0]:,.0f}",
                interval((ratio, *first(row, "ratio_ci95"))),
                f"{first(row, 'wrong')} of {first(row, 'iterations') + first(row, 'warmup_iterations')}",
                f"at least {LEAST}: {met([ratio], LEAST, at_least=True)}",
            )
        )
    header = (
        "",
        "replay, updates/s",
        "virtual clock, updates/s",
        "replay over virtual clock",
        "replays that differed",
        "target",
    )
    return f"{table(header, lines, right=(1, 2, 3, 4))}\n\n{origin('replay')}"
