"""Ours and the peers at the same work, in turns: each waits in a process of its own until it is its turn.

A sample is one run of the work, in seconds an update of one client, from the end of the first server step to that of
the last one; of ours, the whole run. All processes share one core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Case, Limits, Samples, interleave
from qafel_mpi.bench.peers import environments, runner, work
from qafel_mpi.bench.peers.environments import PeerError
from qafel_mpi.bench.peers.work import Part

OURS = "qafel_mpi"
AS_OURS = 1e-3  # of the distance that our model moved: what rounding makes of it is less
BELOW_OURS = 0.1  # of accuracy: a peer that is worse than this has not done the same work
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


class Contender(NamedTuple):
    """Who does the work: a name, an interpreter, a recipe, and what it can do."""

    name: str
    python: Path
    recipe: Path
    algorithms: Sequence[str]
    share: float = 1.0  # of the updates of a sample


def ourselves(recipe: Path) -> Contender:
    return Contender(OURS, Path(sys.executable), recipe, work.ALGORITHMS)


def contender(name: str, python: Path) -> Contender:
    """One of environments.NAMES."""
    module = environments.recipe(name)
    return Contender(
        name, python, Path(str(module.__file__)), module.ALGORITHMS, getattr(module, "SHARE", 1.0)
    )


def rows(
    contenders: Sequence[Contender], parts: Sequence[Part], limits: Limits, tell: Callable[[str], None]
) -> Iterator[Row]:
    """contenders: ours first. `tell` hears of peers that fail, or that learn something else.

    A part is measured with all who can do it: a row of ours, and one against each peer.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        for part in parts:
            data = Path(folder) / f"{part.model}-{part.clients}.npz"
            if not data.exists():
                work.write(part, data)
            able = [one for one in contenders if part.algorithm in one.algorithms]
            yield from _of_a_part(part, able, data, limits, tell)


def _of_a_part(
    part: Part,
    contenders: Sequence[Contender],
    data: Path,
    limits: Limits,
    tell: Callable[[str], None],
) -> Iterator[Row]:
    with ExitStack() as stack:
        processes: dict[str, Process] = {}
        for one in contenders:
            process = stack.enter_context(Process(one, part.settings(data, one.share)))
            try:
                process.sample()  # imports, compiles, and shows whether it can
            except PeerError as error:
                if one.name == OURS:
                    raise
                tell(f"{part.model}, {part.algorithm}, cohort {part.cohort}: left out: {error}")
            else:
                processes[one.name] = process
        cases: dict[str, Case] = {name: process.sample for name, process in processes.items()}
        # The budget is for a peer and us.
        each = replace(limits, seconds=limits.seconds * max(1, len(cases) / 2))
        samples = interleave(cases, each, loops=part.updates)
    about = {"model": part.model, "algorithm": part.algorithm, "cohort": part.cohort}
    ours = processes.pop(OURS)
    yield Row("peers", about, samples[OURS], derived=derived(ours.found, samples[OURS]))
    for name, process in processes.items():
        one = next(one for one in contenders if one.name == name)
        alike = compared(_of_ours(contenders[0], part, data, one.share) or ours.found, process.found)
        if not alike["comparable"]:
            tell(f"{name} learned something else than ours: {alike}; its row is void")
        taken = replace(samples[name], loops=process.found["updates"])
        theirs = derived(process.found, taken)
        columns = derived(ours.found, samples[OURS]) | {f"peer_{k}": v for k, v in theirs.items()} | alike
        yield Row("peers", about | {"against": name}, samples[OURS], taken, name, derived=columns)


def _of_ours(one: Contender, part: Part, data: Path, share: float) -> Mapping[str, Any]:
    """What our run of so much of the work ends with; of all of it: nothing, for that is known."""
    if share == 1:
        return {}
    with Process(one, part.settings(data, share)) as process:
        process.sample()
        return process.found


def derived(found: Mapping[str, Any], samples: Samples) -> dict[str, float]:
    """Columns of one contender: the median of its samples, the rest as it was the last time.

    sent_bytes, reported_bytes: an update's, up and down; left out where there are no sockets, or no word of any.
    """
    bytes_ = {name: found[name] for name in ("sent_bytes", "reported_bytes") if found[name] is not None}
    return bytes_ | {
        "updates_per_s": 1 / samples.median,
        "peak_mb": found["peak_bytes"] / 1e6,
        "accuracy": found["accuracy"],
    }


def compared(ours: Mapping[str, Any], peers: Mapping[str, Any]) -> dict[str, float]:
    """apart: distance of the two models over that which ours moved, by 256 of their elements. comparable: 1 or 0."""
    mine, other = np.array(ours["digest"]), np.array(peers["digest"])
    apart = float(np.linalg.norm(mine - other) / max(float(np.linalg.norm(mine)), 1e-12))
    short = ours["accuracy"] - peers["accuracy"]
    same_work = ours["server_steps"] == peers["server_steps"]
    learned = apart < AS_OURS or (short <= BELOW_OURS and peers["moved"] > 0)
    return {"apart": apart, "accuracy_short": short, "comparable": float(same_work and learned)}


class Process:
    """A contender that is told when it is its turn. Ends with the block."""

    def __init__(self, one: Contender, settings: Mapping[str, Any]):
        self.name, self.found = one.name, dict[str, Any]()
        self._folder = tempfile.TemporaryDirectory(prefix="peer-")
        path = Path(self._folder.name)
        (path / "work.json").write_text(json.dumps(settings), encoding="utf-8")
        self._log = (path / "log").open("w+", encoding="utf-8", errors="replace")
        self._process = subprocess.Popen(
            [str(one.python), "-P", str(runner.__file__), str(one.recipe), "work.json"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            cwd=path,
            env={**os.environ, **ONE_THREAD},
        )
        with suppress(AttributeError):  # not on every system
            os.sched_setaffinity(self._process.pid, {min(os.sched_getaffinity(0))})

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()
        self._folder.cleanup()

    def sample(self) -> float:
        """Seconds an update; the rest is in `found`. Raises PeerError with the last line that the peer wrote."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(OSError):
            self._process.stdin.write("once\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            last = (self._log.read().strip() or "no message").splitlines()[-1]
            raise PeerError(f"{self.name} ended with {self._process.returncode}: {last}")
        self.found = json.loads(line)
        return float(self.found["seconds"] / self.found["updates"])
