"""Run the tests of tests/mpi under mpirun at several numbers of ranks, and believe nothing that did not run.

    python -m tests.run_mpi [--sizes 1,2,3,5] [--limit SECONDS] [--grace SECONDS] [PYTEST ARGUMENT ...]

Every rank runs pytest on the same tests and writes down what it saw. A test has passed at a size when no rank failed
it. The whole has passed when nothing failed, no job crashed or ran out of time, and every test passed at one size at
least: pytest alone calls a run of nothing but skips a success, and so is a test that needs more ranks than it ever
gets. A rank that fails a test while the others still wait in it ends the job after the time of grace.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import ROOT, mpi_environment, mpirun, skip_is_expected

if TYPE_CHECKING:
    from mpi4py import MPI

SIZES = (1, 2, 3, 5)
LIMIT_SECONDS = 1800  # for one size, on a slow machine with another part of the tests beside it
GRACE_SECONDS = 20  # how long a rank that failed a test waits for the others to end it
DUMP_AT = 0.8  # of the limit: then every rank shows its stacks
TAIL_LINES = 60


# ---------------------------------------------------------------- on every rank


class Witness:
    """The pytest plugin of a rank: writes one JSON line an event, and keeps the ranks together test by test."""

    def __init__(self, comm: MPI.Intracomm, path: Path, grace_s: float) -> None:
        self.comm = comm
        self.grace_s = grace_s
        self.file = path.open("w")
        self.failed = False

    def write(self, **event: Any) -> None:
        print(json.dumps(event), file=self.file, flush=True)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.failed = False
        self.write(started=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or not report.passed:
            skip = report.longrepr[2] if isinstance(report.longrepr, tuple) else None
            self.write(test=report.nodeid, outcome=report.outcome, text=skip or report.longreprtext)
            self.failed |= report.failed

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Wait until every rank is through this test; a rank that failed it does not wait for ever."""
        self.write(finished=nodeid)
        request = self.comm.Ibarrier()
        give_up_s = time.monotonic() + self.grace_s
        while not request.Test():
            if self.failed and time.monotonic() > give_up_s:
                self.write(stuck=nodeid)
                self.comm.Abort(1)
            time.sleep(0.001)


def run_rank(folder: Path, limit_s: float, grace_s: float, pytest_arguments: list[str]) -> None:
    from mpi4py import MPI

    comm = MPI.COMM_WORLD.Dup()
    own = folder / str(comm.rank)
    own.mkdir()
    with (own / "stacks").open("w") as stacks, (own / "output").open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        faulthandler.dump_traceback_later(DUMP_AT * limit_s, file=stacks)
        witness = Witness(comm, own / "events", grace_s)
        # A cache and temporary folders of its own: the ranks would remove each other's.
        fixed = ["--with-mpi", "-p", "no:cacheprovider", f"--basetemp={own / 'tmp'}", "--color=no"]
        code = pytest.main([*fixed, *pytest_arguments], plugins=[witness])
        witness.write(exit=int(code))
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            comm.Abort(1)  # this rank ran no tests: the others would wait for it
        comm.Barrier()
        faulthandler.cancel_dump_traceback_later()


# ---------------------------------------------------------------- around mpirun


@dataclass
class Outcome:
    """What one mpirun showed. Tests are node ids; a failure has the report of each rank that saw it."""

    size: int
    seconds: float
    complete: bool = True
    passed: set[str] = field(default_factory=set)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, dict[int, str]] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)  # why the job is not complete, and the ranks' last words

    def summary(self) -> str:
        ranks = f"{self.size} rank" + ("s" if self.size > 1 else "")
        counts = f"{len(self.passed)} passed, {len(self.failed)} failed, {len(self.skipped)} skipped"
        return f"mpirun, {ranks}: {counts} in {self.seconds:.1f} s" + (
            "" if self.complete else ": did not end"
        )


def launch(size: int, limit_s: int, grace_s: float, pytest_arguments: list[str]) -> Outcome:
    """One mpirun of all the tests. The folder of its files is short: paths of sockets have at most 107 characters."""
    with tempfile.TemporaryDirectory(prefix="qafel-", dir="/tmp") as name:
        folder = Path(name)
        environment = {
            **os.environ,
            **mpi_environment(),
            "MPIEXEC_TIMEOUT": str(limit_s),  # Open MPI and MPICH both honour it
            "OMP_NUM_THREADS": "1",
            "TMPDIR": name,
        }
        rank = [
            sys.executable,
            "-m",
            "tests.run_mpi",
            "--rank",
            name,
            "--limit",
            str(limit_s),
            "--grace",
            str(grace_s),
        ]
        command = [mpirun(), "-n", str(size), *rank, *pytest_arguments]
        began_s = time.monotonic()
        with (folder / "mpirun").open("w") as output:
            job = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = job.wait(limit_s + 30)
            except subprocess.TimeoutExpired:
                status = None
            finally:  # also on Ctrl-C; mpirun takes its ranks along when it may
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(job.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    job.wait(10)
                job.kill()
        return gather(folder, size, time.monotonic() - began_s, status)


def gather(folder: Path, size: int, seconds: float, status: int | None) -> Outcome:
    """Put the ranks' records together: passed is what some rank passed and none failed or left unfinished."""
    outcome = Outcome(size, seconds)
    seen: Counter[str] = Counter()
    for rank in range(size):
        ended, started = False, "before the first test"
        for event in read_events(folder / str(rank) / "events"):
            started = event.get("started", started)
            ended |= event.get("exit") in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
            seen[event.get("finished", "")] += 1
            if "stuck" in event:
                outcome.trouble.append(f"rank {rank} failed {event['stuck']}; the other ranks did not end it")
            match event.get("outcome"):
                case "passed":
                    outcome.passed.add(event["test"])
                case "skipped":
                    outcome.skipped[event["test"]] = event["text"].removeprefix("Skipped: ")
                case "failed":
                    outcome.failed.setdefault(event["test"], {})[rank] = event["text"]
        if not ended:
            outcome.complete = False
            outcome.trouble.append(f"rank {rank} did not reach the end; its last test: {started}")
            outcome.trouble += [tail(folder / str(rank) / name) for name in ("output", "stacks")]
    if status != 0:
        outcome.complete = False
        outcome.trouble.insert(
            0, "mpirun did not end" if status is None else f"mpirun ended with status {status}"
        )
        outcome.trouble.append(tail(folder / "mpirun"))
    outcome.passed = {t for t in outcome.passed if seen[t] == size} - outcome.failed.keys()
    for test in outcome.passed | outcome.failed.keys():
        outcome.skipped.pop(test, None)
    return outcome


def read_events(path: Path) -> list[dict[str, Any]]:
    """The last line of a rank that was killed may be torn."""
    events = []
    with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
        for line in path.read_text().splitlines():
            events.append(json.loads(line))
    return events


def tail(path: Path) -> str:
    """The end of a file, without the frames of pytest's own machinery."""
    text = path.read_text(errors="replace").replace("\0", "") if path.exists() else ""
    lines = [line for line in text.splitlines() if not re.search(r"/(_pytest|pluggy)/", line)]
    return "\n".join([f"--- {path.parent.name}/{path.name}", *lines[-TAIL_LINES:]]) if lines else ""


def report(outcome: Outcome) -> None:
    for test, seen in sorted(outcome.failed.items()):
        ranks = ", ".join(map(str, seen))
        print(f"\n=== FAILED {test}, {outcome.size} ranks, seen by: {ranks}\n{next(iter(seen.values()))}")
    for line in filter(None, outcome.trouble):
        print(line)
    print(outcome.summary(), flush=True)


def wrong(report: str) -> str:
    """The first line of what pytest found wrong."""
    return next(
        (line[1:].strip() for line in report.splitlines() if line.startswith("E ")), "no reason given"
    )


def never_passed(outcomes: list[Outcome]) -> dict[str, str]:
    """Tests that no size ran, with the last reason; those excused by what the machine lacks are left out."""
    seen = set().union(*(o.passed | o.failed.keys() for o in outcomes))
    reasons = {test: reason for o in outcomes for test, reason in o.skipped.items() if test not in seen}
    return {test: reason for test, reason in reasons.items() if not skip_is_expected(reason)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Run tests/mpi under mpirun.", allow_abbrev=False)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of ranks")
    parser.add_argument("--limit", type=int, default=LIMIT_SECONDS, help="seconds for one size")
    parser.add_argument(
        "--grace", type=float, default=GRACE_SECONDS, help="seconds for ranks that are left alone"
    )
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)  # set on the ranks, by this program
    options, pytest_arguments = parser.parse_known_args()
    if options.rank:
        run_rank(options.rank, options.limit, options.grace, pytest_arguments)
        return

    if not any(Path(word.partition("::")[0]).exists() for word in pytest_arguments):
        pytest_arguments.append("tests/mpi")
    outcomes = []
    for size in map(int, options.sizes.split(",")):
        outcomes.append(launch(size, options.limit, options.grace, pytest_arguments))
        report(outcomes[-1])
        if not outcomes[-1].complete:
            print("the other sizes are left out")
            break
    missing = never_passed(outcomes) if all(o.complete for o in outcomes) else {}
    for test, reason in missing.items():
        print(f"never ran: {test}: {reason}")
    for outcome in outcomes:  # once more, where also those look who see no more than the end
        for test, seen in sorted(outcome.failed.items()):
            print(f"FAILED {test}, {outcome.size} ranks - {wrong(next(iter(seen.values())))}")
    broken = len(missing) + sum(not o.complete and not o.failed for o in outcomes)
    failed = broken + sum(len(o.failed) for o in outcomes)
    print(f"{sum(len(o.passed) for o in outcomes)} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
