"""Blocks of docs/findings.md on messages and clocks: a scale for a whole tensor, the two clocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from docs.render.codec_errors import title
from docs.render.pages import table
from docs.render.records import content, digits, measured
from docs.render.verdicts import (
    Check,
    Finding,
    Interval,
    apart,
    at_least,
    at_most,
    every,
    shown,
    within,
)

WHOLE, BUCKETS, EDEN = "qsgd, 4 bits, l2 of the tensor", "qsgd, 4 bits", "eden, 4 bits"
L2_128, L2_512, LINF_WHOLE = (
    "qsgd, 4 bits, l2, 128",
    "qsgd, 4 bits, l2, 512",
    "qsgd, 4 bits, linf of the tensor",
)
CODECS = {  # name in the record -> in the table
    L2_128: "qsgd, 4 bits, ‖·‖₂ of 128 elements",
    L2_512: "qsgd, 4 bits, ‖·‖₂ of 512",
    "qsgd, 4 bits, l2, 4096": "qsgd, 4 bits, ‖·‖₂ of 4,096",
    WHOLE: "qsgd, 4 bits, ‖·‖₂ of the tensor",
    "qsgd, 4 bits, 128": "qsgd, 4 bits, ‖·‖∞ of 128",
    BUCKETS: "qsgd, 4 bits, ‖·‖∞ of 512: the default",
    "qsgd, 4 bits, 4096": "qsgd, 4 bits, ‖·‖∞ of 4,096",
    LINF_WHOLE: "qsgd, 4 bits, ‖·‖∞ of the tensor",
    "qsgd, 4 bits, rotated": "qsgd, 4 bits, rotated, ‖·‖∞ of 512",
    EDEN: "eden, 4 bits",
    "eden, 2 bits": "eden, 2 bits",
    "eden, 1 bits": "eden, 1 bit",
}
CONTRACTION = 128 / (4 * 7**2)  # 1 − δ that is guaranteed with ‖·‖₂ of 128 elements and 7 levels, 4 bits
OF_LINKS = "findings-replays-links"
CLOCKS = {"digits": "clocks", "Fashion-MNIST": "clocks-fashion-mnist"}


# --- 11: one scale for a whole tensor -----------------------------------------------------------------


def whole_tensor() -> Finding:
    """QSGD as published beside buckets and eden, on updates of four models. The ranges are over single updates."""
    runs = content("codec-error")
    errors = {title(run): {one["codec"]: _error(one) for one in run["codecs"]} for run in runs}
    small, large = (errors[title(run)][WHOLE] for run in (runs[0], runs[-1]))
    growth = (large[0] / small[0], large[1] / small[2], large[2] / small[1])
    checks = (
        every(
            "qsgd at 4 bits with the tensor's ‖·‖₂ is no contraction on any update: 1 − δ is 1 or more",
            {name: (found[WHOLE], at_least(found[WHOLE], 1.0)) for name, found in errors.items()},
        ),
        Check(
            f"Its error grows with the model: ten times or more from {runs[0]['elements']:,} elements to "
            f"{runs[-1]['elements']:,}",
            shown(growth),
            at_least(growth, 10.0),
        ),
        every(
            "‖·‖₂ of 512 elements is no contraction on any update either",
            {name: (found[L2_512], at_least(found[L2_512], 1.0)) for name, found in errors.items()},
        ),
        every(
            f"With ‖·‖₂ of 128 elements 1 − δ is at most {CONTRACTION:.2f} on every update, as is guaranteed",
            {name: (found[L2_128], at_most(found[L2_128], CONTRACTION)) for name, found in errors.items()},
        ),
        every(
            "‖·‖∞ of the whole tensor is no contraction on any update",
            {name: (found[LINF_WHOLE], at_least(found[LINF_WHOLE], 1.0)) for name, found in errors.items()},
        ),
        every(
            "With ‖·‖∞ of 512 elements, the default, 1 − δ is at most 0.25 on every update",
            {name: (found[BUCKETS], at_most(found[BUCKETS], 0.25)) for name, found in errors.items()},
        ),
        every(
            "eden at 4 bits has at most half of the default's error",
            {
                name: (ratio, at_most(ratio, 0.5))
                for name, found in errors.items()
                for ratio in [_over(found[EDEN], found[BUCKETS])]
            },
        ),
    )
    header = ("1 − δ, mean [least, most]", *errors)
    lines = [(words, *(shown(found[codec]) for found in errors.values())) for codec, words in CODECS.items()]
    return Finding(checks, table(header, lines, right=range(1, len(header))), ("codec-error",))


def _error(one: Mapping[str, Any]) -> Interval:
    return one["error"], one["least"], one["most"]


def _over(ours: Interval, theirs: Interval) -> Interval:
    """Whatever update of the one and of the other."""
    return ours[0] / theirs[0], ours[1] / theirs[2], ours[2] / theirs[1]


# --- 14: the two clocks -------------------------------------------------------------------------------


def clocks() -> Finding:
    """One population on both clocks, and replays of the wall clock's runs."""
    uploads = {words: _by_clock(record) for words, record in CLOCKS.items()}
    ratios = {words: apart(one["virtual"], one["wall"]) for words, one in uploads.items()}
    wall = [run for record in CLOCKS.values() for run in content(record) if run["driver"] == "wall"]
    checks = [
        every(
            "The virtual clock needs the wall clock's uploads to the target, within a factor of 1.25",
            {words: (one, within(one, 1 / 1.25, 1.25)) for words, one in ratios.items()},
        ),
        replays(
            "Replays of the wall runs below end with the run's model, bit for bit", wall, "findings-replays"
        ),
    ]
    records = [*CLOCKS.values(), "findings-replays"]
    if measured(OF_LINKS):
        links = content("findings-link-rates")
        checks.append(replays("So do those of [Links of many rates](#links-of-many-rates)", links, OF_LINKS))
        records.append(OF_LINKS)
    lines = [
        (words, *(_average(one[clock]) for clock in ("wall", "virtual")), shown(ratios[words]))
        for words, one in uploads.items()
    ]
    header = ("data", "uploads, wall clock", "virtual clock", "virtual / wall [95%]")
    return Finding(checks, table(header, lines, right=(1, 2, 3)), records)


def replays(words: str, runs: Sequence[Mapping[str, Any]], record: str) -> Check:
    """How many of these runs were replayed, and to their own model. Open where some were not.

    A run and its replay are told by the digest of the run's model: a record of other runs says nothing of these.
    """
    again = {one.get("x_digest"): one for one in content(record)}
    found = [again[run["x_digest"]] for run in runs if run["x_digest"] in again]
    same = sum(one["same"] for one in found)
    steps = sum(one["server_steps"] for one in found)
    kinds = Counter(f"{one['dataset']}, {one['ranks']} ranks" for one in found)
    of_which = "; ".join(f"{count} of {kind}" for kind, count in kinds.items())
    told = f"{len(found)} of {len(runs)} runs were replayed"
    if found:
        told += f" ({of_which}), of {steps:,} server steps together; {same} ended with the same bits"
    return Check(words, told, False if same < len(found) else True if len(found) == len(runs) else None)


def _by_clock(record: str) -> dict[str, list[int]]:
    """Raises ValueError where a run missed its target."""
    found: dict[str, list[int]] = {"wall": [], "virtual": []}
    for run in content(record):
        if run["uploads_to_target"] is None:
            raise ValueError(f"{record}.json: {run['run']} missed its target")
        found[run["driver"]].append(run["uploads_to_target"])
    return found


def _average(uploads: Sequence[int]) -> str:
    return f"{digits(sum(uploads) / len(uploads))} ({min(uploads):,} to {max(uploads):,})"
