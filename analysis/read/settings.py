"""What a run is a function of: its experiment as flat settings, and in what two experiments differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

# Runs that differ in these alone are repetitions of one setting.
_NOT_A_SETTING = ("seed", "description", "trace.", "transport.patience_seconds")
# The wall clock has no schedule of its own: what is written there has no effect.
_WALL_IGNORES = ("clock.",)

Settings = Mapping[str, Any]
T = TypeVar("T")


def flat(experiment: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted keys.

    >>> flat({"algorithm": "qafel", "server": {"buffer_size": 10}})
    {'algorithm': 'qafel', 'server.buffer_size': 10}
    """
    found: dict[str, Any] = {}
    for key, value in experiment.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = tuple(value) if isinstance(value, list) else value
    return found


def settings(experiment: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that tell runs apart: the experiment but for its seed, and what its command line adds.

    run: the run's row; its ranks count on the wall clock, where they play the clients.
    """
    wall = run.get("driver") == "wall"
    left_out = _NOT_A_SETTING + (_WALL_IGNORES if wall else ())
    found = {k: v for k, v in flat(experiment).items() if not k.startswith(left_out)}
    for key in ("algorithm", "uplink_codec", "uplink_bits", "downlink_codec", "downlink_bits", "buffer_size"):
        found.setdefault(key, run.get(key))
    found |= {"driver": run.get("driver"), "parameters": run.get("parameters")}
    if wall:
        found["ranks"] = run.get("ranks")
    return found


def differences(members: Sequence[Settings]) -> list[dict[str, Any]]:
    """For each of them, the settings in which not all agree.

    >>> differences([{"a": 1, "b": 2}, {"a": 1, "b": 3}])
    [{'b': 2}, {'b': 3}]
    """
    keys = sorted({key for one in members for key in one})
    varied = [key for key in keys if len({repr(one.get(key)) for one in members}) > 1]
    return [{key: one.get(key) for key in varied} for one in members]


def alike(items: Sequence[T], settings_of: Callable[[T], Settings]) -> list[tuple[T, ...]]:
    """The items by their settings, each setting where its first item came.

    >>> alike([1, 2, 3, 4], lambda n: {"odd": n % 2})
    [(1, 3), (2, 4)]
    """
    found: dict[str, list[T]] = {}
    for item in items:
        own = sorted((key, repr(value)) for key, value in settings_of(item).items())
        found.setdefault(repr(own), []).append(item)
    return [tuple(members) for members in found.values()]


def labels(names: Sequence[str], members: Sequence[Settings]) -> list[str]:
    """Each name; where several have it, with the settings that tell them apart.

    >>> labels(["a", "a", "b"], [{"k": 1}, {"k": 2}, {"k": 3}])
    ['a, k = 1', 'a, k = 2', 'b']
    """
    found = []
    for at, name in enumerate(names):
        same = [k for k, other in enumerate(names) if other == name]
        words = telling([members[k] for k in same])[same.index(at)]
        found.append(f"{name}, {words}" if words else name)
    return found


def telling(members: Sequence[Settings], most: int = 3) -> list[str]:
    """For each of them, words that tell it from the others: the settings in which not all agree.

    Where there are more than `most` of those, no more than are needed, and an ellipsis.

    >>> telling([{"a": 1, "b": 2, "c": 0}, {"a": 1, "b": 3, "c": 0}])
    ['b = 2', 'b = 3']
    """
    varied = differences(members)
    keys = list(varied[0])
    if more := len(keys) > most:
        keys = _enough(varied, keys)
    return [", ".join([f"{k} = {one[k]}" for k in keys] + ["…"] * more) for one in varied]


def _enough(members: Sequence[Settings], keys: Sequence[str]) -> list[str]:
    """Keys that together tell all members apart: first those that say the most to a reader, then the strongest."""
    ranked = sorted(keys, key=lambda key: (any(one[key] is None for one in members), key))
    found: list[str] = []
    while (count := _apart(members, found)) < len(members):
        plain = (key for key in _PLAIN if key in keys and _apart(members, [*found, key]) > count)
        strongest = max(ranked, key=lambda key: _apart(members, [*found, key]))
        found.append(next(plain, strongest))
    return found


_PLAIN = ("target", "task.dataset", "task.model", "driver")


def _apart(members: Sequence[Settings], keys: Sequence[str]) -> int:
    """How many of them differ in these."""
    return len({repr([one[key] for key in keys]) for one in members})


def distance(one: Settings, other: Settings) -> int:
    """The number of settings in which the two differ."""
    return sum(one.get(key) != other.get(key) for key in {*one, *other})


# What an algorithm brings along: two algorithms may differ in these and still be compared.
_OF_THE_ALGORITHM = ("algorithm", "uplink", "downlink", "staleness", "server.", "buffer_size")


def comparable(one: Settings, other: Settings) -> bool:
    """Whether two settings are algorithms on one task to one target, on one clock."""
    keys = (k for k in {*one, *other} if not k.startswith(_OF_THE_ALGORITHM))
    return all(
        one.get(k) == other.get(k) for k in keys if k.startswith(("task.", "stop.", "driver", "ranks"))
    )
