"""What the files of tests/gpu/run.sh say of its goals: python -m tests.gpu.goals FOLDER writes FOLDER/goals.json.

A goal has the value that was measured and whether it is met; both are null where a stage was skipped or failed, and
then stages.json says why. Codec and server are judged at their largest vectors, which lie in no cache.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COPY_SHARE = 0.7  # of the measured bandwidth of a copy, at least
EXPOSED_SHARE = 0.1  # of the communication, at most
ON_CARD = "codec on the card: share of the bandwidth of a copy on the card"
ON_HOST = "server on the host: share of the bandwidth of a memory pass there"
EXPOSED = "communication that training does not hide: its share of all"

_ABOUT = ["codec", "algorithm", "bits", "operation", "d"]

Goal = dict[str, Any]


def goals(folder: Path) -> list[Goal]:
    """In the order of the stages."""
    found = [*_bandwidths(folder / "codec.json", ON_CARD), *_bandwidths(folder / "server.json", ON_HOST)]
    shares = [row["exposed_share"] for row in _rows(folder / "overlap.json")]
    return [*found, _goal(EXPOSED, {}, max(shares, default=None), EXPOSED_SHARE, at_least=False)]


def _bandwidths(file: Path, what: str) -> Iterator[Goal]:
    rows = _rows(file)
    if not rows:
        yield _goal(what, {}, None, COPY_SHARE, at_least=True)
    largest = max((row["d"] for row in rows), default=0)
    for row in rows:
        if row["d"] == largest and "ratio" in row:
            about = {name: row[name] for name in _ABOUT if name in row}
            yield _goal(what, about, row["ratio"], COPY_SHARE, at_least=True)


def _goal(what: str, about: Goal, value: float | None, wanted: float, *, at_least: bool) -> Goal:
    met = None if value is None else (value >= wanted if at_least else value <= wanted)
    return {"goal": what, **about, "at_least" if at_least else "at_most": wanted, "value": value, "met": met}


def _rows(file: Path) -> list[Goal]:
    """Of a file of `qafel-mpi bench`; none where its stage has left no such file."""
    return json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []


def main(folder: Path) -> None:
    found = goals(folder)
    (folder / "goals.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    for goal in found:
        said = {True: "met", False: "missed", None: "not measured"}[goal["met"]]
        about = " ".join(
            str(goal[name]) for name in ("codec", "algorithm", "bits", "operation") if name in goal
        )
        value = "" if goal["value"] is None else f" {goal['value']:.2f}"
        print(f"{goal['goal']}{f', {about}' * bool(about)}:{value} {said}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
