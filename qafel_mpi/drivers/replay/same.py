"""Before anything is trained: what is not as it was in the run that is to be done again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from qafel_mpi.drivers.replay.recorded import FIRST_VERSION, Recorded, ReplayError
from qafel_mpi.drivers.replay.unseen import moved

PINNED = ("ranks", "threads")  # a replay trains with the threads of the rank that trained before


def what_differs(
    recorded: Recorded, fingerprints: Mapping[str, str], arithmetics: Iterable[Mapping[str, Any]]
) -> list[str]:
    """A sentence each; empty where a replay can only give the same bits. arithmetics: of the ranks that replay."""
    found = list(_of_the_trace(recorded))
    then = recorded.part("fingerprints") or {}
    for name, value in fingerprints.items():
        if name in then and then[name] != value:
            found.append(
                f"{name}: {then[name] or 'none'} in the run, {value or 'none'} here{REMEDIES.get(name, '')}"
            )
    before, now = recorded.part("arithmetic") or [], list(arithmetics)
    found += _of_the_arithmetic(before, now)
    for start in recorded.part("resumed") or []:  # what was before the run went on from a checkpoint
        found += [
            f"before the run was resumed, {line}" for line in _of_a_start(start, before, now, fingerprints)
        ]
    return list(dict.fromkeys(found))


REMEDIES = {
    "package": "; install the version that ran (the attributes git_commit and versions say which)",
    "data": "; give the data of the run with --data-dir or QAFEL_DATA_DIR",
}


def _of_the_trace(recorded: Recorded) -> Iterator[str]:
    version = int(recorded.attributes.get("schema_version", 1))
    if version < FIRST_VERSION:
        yield (
            f"the trace is of schema version {version}, which has no digests of updates: only x and x̂ at the end can "
            "be compared"
        )
    elif not recorded.has_digests:
        yield "the run had trace.digests = false: only x and x̂ at the end can be compared"
    for client, participation in recorded.unknown[:1]:
        yield (
            f"error feedback: the next update of client {client} depends on its training {participation}, of which "
            f"the trace says nothing, and so do {len(recorded.unknown) - 1} others"
        )
    e = recorded.experiment
    served = recorded.served
    resumed_at = np.searchsorted(served, [at for at in recorded.resumed_at if at >= 0]).tolist()
    who = moved(recorded.updates[served], resumed_at) if e.client.error_feedback else None
    if who is not None:
        yield f"error feedback: client {who} moved to another rank and began anew there, as no replay does yet"
    unicast = e.downlink.delivery == "unicast" and e.downlink.mode != "none"
    if recorded.wall and unicast and -1 in recorded.resumed_at:
        yield "the run was resumed, and the trace does not say where: its clients had other downloads there"
    if recorded.x is None:
        yield "the trace has no /final, for the run was cut short: only its updates can be compared"


def _of_a_start(
    start: Mapping[str, Any],
    resumed: list[dict[str, Any]],
    now: list[Mapping[str, Any]],
    fingerprints: Mapping[str, str],
) -> Iterator[str]:
    before = start.get("arithmetic", [])
    yield from _of_the_arithmetic(before, now)
    threads, later = ({one.get("threads") for one in some} for some in (before, resumed))
    if before and threads != later:
        yield f"threads: {_listed(threads)}, and {_listed(later)} after that; a replay trains with the latter"
    package = start.get("package")
    if package and package != fingerprints.get("package", package):
        yield f"package: {package}, {fingerprints['package']} here{REMEDIES['package']}"


def _listed(numbers: set[Any]) -> str:
    return " and ".join(sorted(map(str, numbers)))


def _of_the_arithmetic(then: list[dict[str, Any]], now: list[Mapping[str, Any]]) -> Iterator[str]:
    for old in then:
        for new in now:
            for name in old:
                if name in PINNED or old[name] == new.get(name):
                    continue
                if isinstance(old[name], dict):
                    yield from _of_a_part(name, old[name], new.get(name, {}))
                else:
                    yield f"{name}: {old[name]} in the run, {new.get(name)} here"


def _of_a_part(name: str, then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(then.keys() | now.keys()):
        if then.get(key) != now.get(key):
            how = "; leave --instructions out, or set it as it was" if name == "environment" else ""
            yield f"{key}: {then.get(key, 'not set')} in the run, {now.get(key, 'not set')} here{how}"


def refuse(recorded: Recorded, differences: list[str]) -> None:
    """Raise ReplayError with all that differs."""
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ReplayError(
            f"{recorded.path} can't be replayed bit for bit here:\n{lines}\n--anyway tries all the same"
        )
