"""All tests in parts, a few parts at a time: what `make test` runs.

    python -m tests.parts [--jobs N] [--keep-going] [--quick] [PART ...]

A part is a command: pytest on some paths, the MPI tests, or mypy. A path of one part is left out of the folders of
the others, so that a new file is in exactly one part. What a part prints is shown when it has ended, and at the end
which tests failed. Parts whose tests need the machine for themselves come last, one at a time. Once a part has failed
no other begins, but for --keep-going.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import IO

from tests.support import ROOT, search_path

JOBS = 2
PATIENT = {"OMP_WAIT_POLICY": "passive"}  # threads that wait leave their core to the other parts
GRACE_SECONDS = 20  # for parts that are interrupted, to say where they were
LAST_LINES = 10  # of a failed part that names no failed test


@dataclass(frozen=True)
class Part:
    """paths: folders and files for pytest, or nothing where `command` is another program.

    alone: no other part runs beside it.
    """

    name: str
    paths: tuple[str, ...] = ()
    command: tuple[str, ...] = ("pytest", "--strict-skips", "-q")
    alone: bool = False

    def words(self) -> list[str]:
        others = [path for part in PARTS if part is not self for path in part.paths]
        within = [other for other in others if any(other.startswith(f"{path}/") for path in self.paths)]
        return [sys.executable, "-m", *self.command, *self.paths, *(f"--ignore={path}" for path in within)]


# Compiles what most runs need, once: side by side each part would compile it anew.
WARM_UP = "qafel-mpi run digits --set stop.uploads=20 --out warm-up.h5"

# In the order in which they begin: what takes long first.
PARTS = (
    Part("types", command=("mypy",)),
    Part("slurm", ("tests/system/test_slurm.py",)),
    Part("site", ("tests/system/test_site.py",)),
    Part("unit", ("tests/unit",)),
    Part("mpi", command=("tests.run_mpi",)),
    Part("kernels and codecs", ("tests/unit/kernels", "tests/unit/codecs")),
    Part("system", ("tests/system",)),
    Part("analysis", ("tests/unit/analysis", "tests/unit/docs")),
    Part("hosts", ("tests/system/test_hosts.py",)),
    Part("documentation", ("tests/system/test_docs.py",)),
    Part("simulation and fuzz", ("tests/simulation", "tests/fuzz")),
    # Of these seconds are the point, or ranks leave nothing for others.
    Part(
        "alone",
        tuple(f"tests/system/test_{name}.py" for name in ("links", "hangs", "oversubscribed")),
        alone=True,
    ),
)


def without_the_slow(part: Part) -> Part:
    """The part without the tests that are marked so."""
    return replace(part, command=(*part.command, "-m", "not slow")) if part.paths else part


@dataclass
class Running:
    part: Part
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    begun_s: float

    def show(self, how: str) -> None:
        """What it printed so far, under a line that says how it stands."""
        self.output.seek(0)
        print(f"\n==== {self.part.name}: {how}", flush=True)
        sys.stdout.buffer.write(self.output.read())
        sys.stdout.flush()

    def failures(self) -> tuple[str, ...]:
        """The line of each failed test; of a command that writes none, its last lines."""
        self.output.seek(0)
        lines = self.output.read().decode(errors="replace").splitlines()
        return tuple(line for line in lines if line.startswith(("FAILED ", "ERROR "))) or tuple(
            lines[-LAST_LINES:]
        )


@dataclass(frozen=True)
class Ended:
    """seconds: of the clock. cpu_seconds: of all its processes. failures: what it printed of each, if it failed."""

    part: Part
    code: int
    seconds: float
    cpu_seconds: float
    failures: tuple[str, ...] = ()

    def __str__(self) -> str:
        how = "passed" if self.code == 0 else f"FAILED with {self.code}"
        return f"{how} in {self.seconds:.0f} s, {self.cpu_seconds:.0f} s of processors"


def begin(part: Part) -> Running:
    print(f"==== {part.name}: begins", flush=True)
    output = tempfile.TemporaryFile()  # noqa: SIM115 - until the part is shown
    process = subprocess.Popen(
        part.words(),
        cwd=ROOT,
        env=os.environ | PATIENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    return Running(part, process, output, time.monotonic())


def warm_up() -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            WARM_UP.split(), cwd=folder, check=True, env=os.environ | {"PATH": search_path()},
            stdout=subprocess.DEVNULL,
        )  # fmt: skip


def next_ended(running: list[Running]) -> Ended:
    """Wait until one of them ends, take it off the list and show it."""
    pid, status, used = os.wait4(-1, 0)
    (one,) = (each for each in running if each.process.pid == pid)
    one.process.returncode = os.waitstatus_to_exitcode(status)
    running.remove(one)
    seconds = time.monotonic() - one.begun_s
    failures = one.failures() if one.process.returncode else ()
    ended = Ended(one.part, one.process.returncode, seconds, used.ru_utime + used.ru_stime, failures)
    one.show(str(ended))
    one.output.close()
    return ended


def run(parts: Sequence[Part], jobs: int, keep_going: bool = False) -> Iterator[Ended]:
    """Each part as it ends. After a failure none begins, unless asked to; an interruption ends all and shows them."""
    running: list[Running] = []
    waiting = [part for part in parts if not part.alone]
    alone = [part for part in parts if part.alone]
    failed = False
    try:
        while running or (not failed and (waiting or alone)):
            while not failed and waiting and len(running) < jobs:
                running.append(begin(waiting.pop(0)))
            if not running:
                running.append(begin(alone.pop(0)))
            ended = next_ended(running)
            failed |= ended.code != 0 and not keep_going
            yield ended
    except KeyboardInterrupt:
        for one in running:
            one.process.send_signal(signal.SIGINT)
        until_s = time.monotonic() + GRACE_SECONDS
        for one in running:
            try:
                one.process.wait(max(0.0, until_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.process.kill()
            one.show("interrupted")
        raise


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    parser = argparse.ArgumentParser(description="Run all tests, part by part.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(part.name for part in PARTS))
    parser.add_argument("--jobs", type=int, default=JOBS, help="parts at a time")
    parser.add_argument(
        "--keep-going", action="store_true", help="begin the other parts also after a failure"
    )
    parser.add_argument("--quick", action="store_true", help="leave out the tests that are marked as slow")
    options = parser.parse_args()
    named = {part.name: part for part in PARTS}
    if unknown := set(options.parts) - named.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no part; there are: {', '.join(named)}")
    chosen = [named[name] for name in options.parts] or list(PARTS)
    if options.quick:
        chosen = [without_the_slow(part) for part in chosen]
    signal.signal(signal.SIGTERM, _interrupt)  # from `timeout`, through make
    begun_s = time.monotonic()
    ended = []
    try:
        if not options.parts:
            warm_up()
        ended = [*run(chosen, max(1, options.jobs), options.keep_going)]
    except KeyboardInterrupt:
        sys.exit(130)
    print("\n====")
    for one in ended:
        print(f"{one.part.name:<22}{one}", *one.failures, sep="\n    ")
    missing = [part.name for part in chosen if part not in {one.part for one in ended}]
    if missing:
        print(f"not begun, after a failure: {', '.join(missing)}")
    cpu_s = sum(one.cpu_seconds for one in ended)
    print(f"{time.monotonic() - begun_s:.0f} s, {cpu_s:.0f} s of processors", flush=True)
    sys.exit(1 if missing or any(one.code for one in ended) else 0)


if __name__ == "__main__":
    main()
