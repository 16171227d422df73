"""What every benchmark command does: run on all ranks, show rows as they come, write files, give an exit code.

numpy, mpi4py and h5py are imported inside the functions that need them.
"""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from qafel_mpi.commands import process as job
from qafel_mpi.commands.process import ExitCode

if TYPE_CHECKING:
    from mpi4py import MPI

    from qafel_mpi.bench.measuring.result import Result, Row
    from qafel_mpi.bench.measuring.timing import Limits


@dataclass(frozen=True)
class Output:
    """Where a benchmark's result goes, and what it is held against."""

    json: Path | None
    out: Path | None
    reference: Path | None

    def refuse_unwritable(self) -> dict[str, Any]:
        """Raises ConfigError."""
        from qafel_mpi.bench.measuring.keep import refuse_unwritable

        refuse_unwritable(self.json, self.out)
        return {}


Measure = Callable[["MPI.Intracomm", "Limits"], Iterable["Row"]]


def run(
    name: str,
    measure: Measure,
    output: Output,
    *,
    seconds: float,
    width: float,
    ranks: int = 1,
    parts: Sequence[str] = (),
) -> None:
    """Collective: run one benchmark, show its rows as they come, write its files, leave with its exit code.

    measure(comm, limits) gives rows, the same number on every rank; rank 0's count. ranks: the fewest it needs.
    parts: the benchmarks that it is made of; left out: itself. Files that can't be written are refused before it
    begins; if it ends early they hold what there was.
    """
    with job.all_ranks_end():
        job.load()
        world = job.world()
        from mpi4py import MPI

        from qafel_mpi.bench.measuring import ranks as shared
        from qafel_mpi.bench.measuring.keep import Keeper
        from qafel_mpi.bench.measuring.timing import Limits

        comm = shared.require(world, name, ranks) if ranks > 1 else (world or MPI.COMM_SELF)
        job.from_rank_0(comm, output.refuse_unwritable)
        references = _references(comm, output.reference)
        provenance = about(comm, parts or (name,))
        rows = measure(comm, Limits(seconds=seconds, width=width))
        code = ExitCode.DONE
        if comm.rank != 0:
            deque(rows, maxlen=0)  # the same work; its numbers are of no use
        else:
            keeper = Keeper(name, provenance, output.json, output.out)
            with _interruptible(), keeper.until_the_end():
                for row in _shown(rows):
                    keeper.add(row)
            code = _judge(keeper.result(), references)
    _leave(comm, code)


def about(comm: MPI.Intracomm, benches: Sequence[str]) -> dict[str, Any]:
    """Collective: the provenance on rank 0, with every host's processor and memory, every rank's cores and binding.

    Binds as a run does.
    """
    import time

    from qafel_mpi.bench.measuring.keep import load
    from qafel_mpi.bench.seeds import seeds
    from qafel_mpi.drivers.facts import host_facts, hosts, rank_facts
    from qafel_mpi.drivers.provenance import provenance

    facts = job.to_rank_0(comm, rank_facts(comm))
    machines = job.to_rank_0(comm, host_facts())
    if comm.rank != 0:
        return {}
    clock = time.get_clock_info("perf_counter")
    return provenance(sys.argv) | {
        "ranks": facts,
        "thread_level": facts[0]["thread level"],
        "load": {"begin": load()},  # keep.py adds the end's
        "hosts": hosts(machines),
        "binding": [f"{fact['cores']} ({fact['bound by']})" for fact in facts],
        "clock": {"method": clock.implementation, "resolution_s": clock.resolution},
        "seeds": seeds(benches),
    }


def _references(comm: MPI.Intracomm, path: Path | None) -> list[Any]:
    if path is None or comm.rank != 0:
        return []
    from qafel_mpi.bench.measuring.references import load

    return list(load(path))


class BenchInterruptedError(Exception):
    """Ctrl-C, or the SIGTERM that mpirun sends to its ranks then. A failure: there is no checkpoint to go on from."""


@contextmanager
def _interruptible() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise BenchInterruptedError(f"interrupted by {signal.Signals(number).name}")

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _judge(result: Result, references: Sequence[Any]) -> ExitCode:
    """Wrong content fails; a missed reference is 4; doubts are said, and decide nothing."""
    from qafel_mpi.bench.measuring.check import summary
    from qafel_mpi.bench.measuring.references import elsewhere, problems, system_of

    print(f"# {summary(result.rows)}; `qafel-mpi bench check FILE` says which and why", file=sys.stderr)
    system = system_of(result.provenance)
    missed = problems(references, result.rows, system)
    if remark := elsewhere(references, result.rows, system):
        say(remark)
    for problem in missed:
        print(f"reference missed: {problem}", file=sys.stderr)
    if any(row.wrong for row in result.rows):
        return ExitCode.FAILED
    return ExitCode.TARGET_NOT_REACHED if missed else ExitCode.DONE


def _leave(comm: MPI.Intracomm, code: ExitCode) -> None:
    """Every rank with rank 0's code."""
    import numpy as np

    shared = np.array([code], dtype=np.int64)
    comm.Bcast(shared, root=0)
    sys.stdout.flush()
    sys.stderr.flush()
    comm.Barrier()
    raise job.AllLeave(int(shared[0]))


def say(line: str) -> None:
    """A remark beside the tables."""
    print(f"# {line}", file=sys.stderr, flush=True)


# --- tables -----------------------------------------------------------------------------------------


def label(row: Row) -> str:
    """The row's name in messages: "p2p latency bytes=8"."""
    values = [str(v) if isinstance(v, str) else f"{k}={v}" for k, v in row.parameters.items()]
    return " ".join([row.bench, *values])


def _shown(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, each printed when it comes, under a header wherever the columns change."""
    from qafel_mpi.bench.measuring.keep import load

    header: list[str] = []
    for row in rows:
        cells = _cells(row)
        widths = {name: max(len(name), len(text), 9) for name, text in cells.items()}
        if list(cells) != header:
            header = list(cells)
            busy = f"; load of the last minute: {load()[0]:.1f}" if load() else ""
            print(
                f"\n# {row.bench}: a time is {row.reduction}, a sample the mean over Loops in a row; "
                f"95%: interval of the median{_against(row)}{busy}"
            )
            print("  ".join(name.rjust(widths[name]) for name in header))
        print("  ".join(text.rjust(widths[name]) for name, text in cells.items()), flush=True)
        yield row


def _against(row: Row) -> str:
    """What the columns of a row with a reference mean."""
    if row.reference is None:
        return ""
    if row.has_a_limit:
        return f"; {_OVER_LIMIT}: the time over that of {row.reference_name}; Extra: the time beyond it"
    return f"; Ratio: the time of {row.reference_name} over ours; Extra: our time less that one's"


_OVER_LIMIT = "Time/pass"
_HEADINGS = {  # as OSU's benchmarks and nccl-tests have them
    "bytes": "Size",
    "median_us": "Median(us)",
    "ci95_us": "95%",
    "mean_us": "Avg(us)",
    "min_us": "Min(us)",
    "max_us": "Max(us)",
    "p99_us": "P99(us)",
    "p999_us": "P99.9(us)",
    "iterations": "Iterations",
    "bytes_moved": "Moved(B)",
    "loops": "Loops",
    "gb_per_s": "GB/s",
    "wrong": "#wrong",
    "ratio": "Ratio",
    "ratio_ci95": "95% ",
    "extra_us": "Extra(us)",
}
_HIDDEN = (
    "bench",
    "reduction",
    "warmup_iterations",
    "reference",
    "reference_loops",
    "reference_median_us",
    "extra_ci95_us",
)


def _cells(row: Row) -> dict[str, str]:
    """Heading -> text. The files' ratio, the reference's time over ours, is turned over where that is a limit."""
    columns = row.columns()
    headings = dict(_HEADINGS)
    if row.has_a_limit:
        headings["ratio"] = _OVER_LIMIT
        columns["ratio"] = 1 / columns["ratio"]
        columns["ratio_ci95"] = [1 / bound for bound in reversed(columns["ratio_ci95"])]
    return {headings.get(k, k): cell(v) for k, v in columns.items() if k not in _HIDDEN}


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"[{', '.join(cell(v) for v in value)}]"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.4g}"
    return str(value)
