"""Where a trace or a benchmark's result comes from: the command, the date, the code and the machine that made it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from qafel_mpi.trace.reader import Trace, TraceError, open_trace


@dataclass(frozen=True)
class Source:
    """One file's origin. command: as each rank was given it, without the launcher. started: ISO 8601, UTC."""

    command: str
    ranks: int
    started: str
    commit: str
    changed: bool | str  # whether the code differed from the commit; "unknown"
    machine: dict[str, Any]
    versions: dict[str, str]


def source(path: Path) -> Source:
    """Of a trace, or of a result of `qafel-mpi bench --json`. Raises TraceError."""
    if path.suffix == ".json":
        return of_bench(_provenance(path))
    with open_trace(path, salvage=True) as trace:
        return of_trace(trace)


def of_trace(trace: Trace) -> Source:
    """Raises TraceError where the trace's attributes or /ranks can't be read."""
    about = trace.attributes
    ranks = trace.table("ranks", ["host", "cpu_set"])
    cores = [(host.decode("utf-8", "replace"), cpus.decode()) for host, cpus in ranks.tolist()]
    return _source(about, json.loads(about.get("versions", "{}")), int(about.get("ranks", 1)), cores)


def of_bench(about: Mapping[str, Any]) -> Source:
    """about: the file's provenance."""
    facts = about.get("ranks", [])
    cores = [(str(fact["host"]), str(fact["cores"])) for fact in facts]
    return _source(about, about.get("versions", {}), max(1, len(facts)), cores)


def _source(
    about: Mapping[str, Any], versions: Mapping[str, str], ranks: int, cores: Sequence[tuple[str, str]]
) -> Source:
    return Source(
        command=command_of(str(about.get("command_line", "")).split(" ")),
        ranks=ranks,
        started=str(about.get("started", "")),
        commit=str(about.get("git_commit", "")),
        changed=about.get("git_dirty", "unknown"),
        machine={
            "cpu": str(about.get("cpu", "unknown")),
            "cores": cores_of(cores),
            "hosts": max(1, len({host for host, _ in cores})),
            "memory_bytes": int(about.get("memory_bytes", 0)),
            "mpi": str(about.get("mpi_library", "unknown")),
        },
        versions=dict(versions),
    )


def _provenance(path: Path) -> Mapping[str, Any]:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))["provenance"]
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise TraceError(f"{path}: not a result of qafel-mpi bench (it has no provenance)") from error
    if not isinstance(about, dict):
        raise TraceError(f"{path}: not a result of qafel-mpi bench (its provenance is no object)")
    return about


def command_of(words: Sequence[str]) -> str:
    """A command line without the folder that its program lies in.

    >>> command_of(["/home/me/.venv/bin/qafel-mpi", "run", "digits"])
    'qafel-mpi run digits'
    """
    return " ".join([PurePath(words[0]).name, *words[1:]])


def cores_of(ranks: Iterable[tuple[str, str]]) -> int:
    """How many cores ranks were given, by host and list of cores; a shared core counts once.

    >>> cores_of([("a", "0-3"), ("a", "2,5"), ("b", "0")])
    6
    """
    found: set[tuple[str, int]] = set()
    for host, text in ranks:
        for part in filter(None, text.split(",")):
            first, _, last = part.partition("-")
            if first.isdigit():
                found |= {(host, core) for core in range(int(first), int(last or first) + 1)}
    return len(found)


def merged(sources: Iterable[Source]) -> list[dict[str, Any]]:
    """One object for each command, commit and machine: how many files it made, and when the first and last began.

    A command that made runs of several numbers of ranks, as a scaling suite does, was started with the largest.
    """
    groups: dict[str, list[Source]] = {}
    for one in sources:
        same = {k: v for k, v in one.machine.items() if k != "cores"}
        key = json.dumps([one.command, one.commit, one.changed, same, one.versions], sort_keys=True)
        groups.setdefault(key, []).append(one)
    return [_merged(alike) for alike in groups.values()]


def _merged(alike: Sequence[Source]) -> dict[str, Any]:
    first, ranks = alike[0], max(one.ranks for one in alike)
    started = sorted(one.started for one in alike)
    return {
        "command": f"mpirun -n {ranks} {first.command}" if ranks > 1 else first.command,
        "files": len(alike),
        "started": started[0],
        "last_started": started[-1],
        "commit": first.commit,
        "changed": first.changed,
        "machine": first.machine | {"cores": max(one.machine["cores"] for one in alike)},
        "versions": first.versions,
    }
