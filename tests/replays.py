"""Twenty wall runs of different timing, and twenty replays that end with the same digests. `make replays`.

    mpirun -n 8 python -m tests.replays [FILE.json]

Digits, mushrooms (`qafel-mpi data fetch mushrooms`) and the paper's CNN, 4 and 8 ranks, four algorithms, fan-out and
tree. Each trace is replayed by one process, or by all 8 ranks. Prints a line each; fails where any replay differs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "OMPI_MCA_osc", "^ucx"
)  # as qafel-mpi itself does, before MPI begins: no error line a rank

from mpi4py import MPI

from qafel_mpi.config import Experiment, load
from qafel_mpi.drivers.build import RunSummary
from qafel_mpi.drivers.part import run_on_first
from qafel_mpi.drivers.replay import run as replay
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.transport.exchange import broadcast_text

DATA = Path(os.environ.get("QAFEL_DATA_DIR") or "~/.cache/qafel_mpi").expanduser()
ALGORITHMS = ("qafel", "fedbuff", "naive", "fedasync")
BROADCASTS = ("fanout", "tree")
EVERY = (
    "clock.kind=wall",
    "server.buffer_size=4",
    "evaluation.every_steps=20",
    "evaluation.examples=50",
    "stop.seconds=60",
)
TASKS: dict[str, tuple[str, tuple[str, ...]]] = {
    "digits": ("digits", ("stop.uploads=120",)),
    "mushrooms": ("mushrooms-qsgd", ("stop.uploads=200", "stop.steps=10000")),
    "cnn": (
        "digits",
        (
            "task.dataset=synthetic",
            "task.shape=[3, 32, 32]",
            "task.classes=2",
            "task.model=cnn",
            "task.examples=640",
            "task.clients=40",
            "stop.uploads=48",
        ),
    ),
}


def cases() -> list[tuple[str, str, str, int]]:
    """(task, algorithm, broadcast, ranks): all of digits and mushrooms, and every algorithm of the CNN."""
    found = []
    for i, (task, (algorithm, broadcast)) in enumerate(
        product(("digits", "mushrooms"), product(ALGORITHMS, BROADCASTS))
    ):
        found.append((task, algorithm, broadcast, (4, 8)[(i + i // 2) % 2]))
    for i, algorithm in enumerate(ALGORITHMS):
        found.append(("cnn", algorithm, BROADCASTS[i % 2], (4, 8)[i // 2]))
    return found


def experiment(task: str, algorithm: str, broadcast: str, seed: int) -> Experiment:
    name, settings = TASKS[task]
    extra = () if algorithm != "fedasync" else ("server.buffer_size=1",)
    chosen = (f"algorithm={algorithm}", f"transport.broadcast={broadcast}", f"seed={seed}")
    return load(name, [*EVERY, *settings, *chosen, *extra])


def _wall(chosen: Experiment, trace: Path, some: MPI.Intracomm) -> RunSummary:
    return wall.run(chosen, some, trace, data_dir=DATA)


def line(number: int, row: dict[str, Any], outcome: str) -> str:
    run = f"{row['task']:<10}{row['algorithm']:<9}{row['broadcast']:<7}{row['ranks']} ranks"
    size = f"{row['uploads']:>4} uploads  {row['steps']:>4} steps"
    return f"{number:>2}  {run}  {size}  replayed by {row['replay_ranks']}: {outcome}  {row['first']}"


def main(out: Path | None) -> int:
    comm = MPI.COMM_WORLD
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="qafel-replays-") as own:
        folder = Path(broadcast_text(comm, own))
        for number, (task, algorithm, broadcast, ranks) in enumerate(cases()):
            trace = folder / f"{number}.h5"
            chosen = experiment(task, algorithm, broadcast, number)
            summary = run_on_first(comm, ranks, partial(_wall, chosen, trace))
            everyone = number % 3 == 0
            here = comm if everyone else MPI.COMM_SELF
            found = replay.run(trace, here, data_dir=DATA) if everyone or comm.rank == 0 else None
            if comm.rank == 0 and found is not None:
                same = found.outcome == "the same" and found.x_digest == summary.x_digest
                rows.append(
                    {
                        "task": task,
                        "algorithm": algorithm,
                        "broadcast": broadcast,
                        "ranks": ranks,
                        "uploads": summary.uploads,
                        "steps": summary.server_steps,
                        "replay_ranks": found.ranks,
                        "x_digest": found.x_digest,
                        "same": same,
                        "first": found.first_text,
                    }
                )
                print(line(number, rows[-1], found.outcome), flush=True)
        comm.Barrier()
    failed = comm.rank == 0 and not all(row["same"] for row in rows)
    if comm.rank == 0:
        print(f"{sum(row['same'] for row in rows)} of {len(rows)} replays end with the run's digests")
        if out is not None:
            out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return int(broadcast_text(comm, str(int(failed))))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None))
