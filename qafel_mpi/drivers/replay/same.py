"""Before anything is trained: what is not as it was in the run that is to be done again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from qafel_mpi.drivers.replay.recorded import FIRST_VERSION, Recorded, ReplayError

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
    before = recorded.part("arithmetic") or []
    return list(dict.fromkeys([*found, *_of_the_arithmetic(before, list(arithmetics))]))


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
    if recorded.x is None:
        yield "the trace has no /final, for the run was cut short: only its updates can be compared"


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
            how = "; set it as it was before Python starts" if name == "environment" else ""
            yield f"{key}: {then.get(key, 'not set')} in the run, {now.get(key, 'not set')} here{how}"


def refuse(recorded: Recorded, differences: list[str]) -> None:
    """Raise ReplayError with all that differs."""
    if differences:
        lines = "\n".join(f"  {line}" for line in differences)
        raise ReplayError(
            f"{recorded.path} can't be replayed bit for bit here:\n{lines}\n--anyway tries all the same"
        )
