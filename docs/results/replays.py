"""Whether replays of recorded runs end with the run's own model, bit for bit: a row a run.

With the code that ran, else a replay refuses: call it before anything in qafel_mpi changes. `x_digest`, of the run's
model, says of which run of another record a row is.

python docs/results/replays.py docs/results/findings-replays.json RUN.h5...     (record.sh runs it)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qafel_analysis.commands.record import of_runs
from qafel_analysis.read.rows import row_of

from qafel_mpi.replay import ReplayError
from qafel_mpi.replay import run as replay
from qafel_mpi.trace.reader import open_trace


def measured(path: Path) -> dict[str, Any]:
    with open_trace(path) as trace:
        run = row_of(trace)
    try:
        found = replay(path)
    except ReplayError as error:
        raise SystemExit(str(error)) from error
    return {
        "run": f"{path.parent.name}/{path.stem}",
        "driver": run["driver"],
        "dataset": run["dataset"],
        "seed": run["seed"],
        "ranks": run["ranks"],
        "uploads": run["uploads"],
        "server_steps": run["server_steps"],
        "x_digest": run["x_digest"],
        "same": found.outcome == "the same" and found.x_digest == run["x_digest"],
    }


if __name__ == "__main__":
    of_runs("replays", measured)
