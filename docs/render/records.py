"""The files of docs/results, which `qafel-analysis … --record` wrote, and how their numbers are put into words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from math import isinf
from pathlib import Path
from statistics import median
from typing import Any

from docs.render.pages import ROOT

RESULTS = ROOT / "docs/results"
NOTHING = "–"
_SEEDS = re.compile(r" --seeds (\d+)(?:-(\d+))?(?= |$)")
_VARIANTS = re.compile(r" --variant (\S+)")
_PARTS = re.compile(f"{_SEEDS.pattern}|{_VARIANTS.pattern}")
_JSON = re.compile(r" --json \S+")  # a benchmark prints the same
_OUT = re.compile(r" --out (\S+)")


_folders = [RESULTS]  # where records are looked for, in this order


@contextmanager
def reading(folder: Path) -> Iterator[None]:
    """Take records from this folder meanwhile, and from docs/results those that it lacks."""
    _folders.insert(0, folder)
    record.cache_clear()
    try:
        yield
    finally:
        _folders.remove(folder)
        record.cache_clear()


@cache
def record(name: str) -> dict[str, Any]:
    """NAME.json of docs/results."""
    found: dict[str, Any] = json.loads(_file(name).read_text(encoding="utf-8"))
    return found


def _file(name: str) -> Path:
    files = (folder / f"{name}.json" for folder in _folders)
    return next((file for file in files if file.exists()), RESULTS / f"{name}.json")


def measured(name: str) -> bool:
    """Whether there is docs/results/NAME.json."""
    return (RESULTS / f"{name}.json").exists()


def beside(name: str, other: str) -> bool:
    """Whether there is OTHER.json where NAME.json is read from."""
    return _file(name).with_name(f"{other}.json").exists()


def not_measured(group: str) -> str:
    """What a block says in place of its table."""
    return f"Not measured yet. [measure.sh](results/measure.sh) does it (its group `{group}`)."


def content(name: str) -> Any:
    """What the file holds, without where it comes from."""
    return record(name)["content"]


# --- where the numbers come from --------------------------------------------------------------------


def origin(*names: str, folder: str = "results", then: Sequence[str] = ()) -> str:
    """A paragraph below a table: command, note, date, machine, commit and file of its numbers.

    folder: of the files, as seen from the page. then: the commands that make the files of what the first have left.
    """
    records = [record(name) for name in names]
    made = [source for one in records for source in one["sources"]]
    started = [source["started"][:10] for source in made] + [source["last_started"][:10] for source in made]
    commands = dict.fromkeys(
        command
        for one in records
        for command in together([_JSON.sub("", source["command"]) for source in one["sources"]])
    )
    later = [command for command in then if command not in commands]
    notes = dict.fromkeys(_note(one["note"]) for one in records if one["note"])
    machines = dict.fromkeys(_machine(source["machine"]) for source in made)
    commits = dict.fromkeys(f"`{source['commit'][:7]}`" for source in made)
    files = [f"[{name}.json]({folder}/{name}.json)" for name in names]
    parts = [
        f"Command: {'; '.join(f'`{command}`' for command in commands)}.",
        *([f"Then: {'; '.join(f'`{command}`' for command in later)}."] if later else []),
        *([f"Note: {'; '.join(notes)}."] if notes else []),
        f"Date: {_between(min(started), max(started))}.",
        f"Machine: {'; '.join(machines)}.",
        f"Commit: {', '.join(commits)}.",
        f"Data: {', '.join(files)}.",
    ]
    return f"<sub>{' '.join(parts)}</sub>"


def together(commands: Sequence[str]) -> list[str]:
    """Each command once. Those that differ in their seeds and variants alone are one, with the seeds of all.

    Those that differ in a folder of one parent alone are one, with all folders in braces.

    >>> together(["suite a --seeds 0-1 --variant x", "suite a --seeds 2 --variant y", "suite a --seeds 0", "run c"])
    ['suite a --seeds 0-2 --variant x --variant y', 'suite a --seeds 0', 'run c']
    >>> together(["suite a --out runs/a/10", "suite a --out runs/a/20", "suite a --out runs/b/10"])
    ['suite a --out runs/a/{10,20}', 'suite a --out runs/b/10']
    """
    alike: dict[tuple[str, bool], list[str]] = {}
    for command in dict.fromkeys(commands):
        alike.setdefault((_PARTS.sub("", command), "--variant" in command), []).append(command)
    merged = [own[0] if len(own) == 1 else _merged(rest, own) for (rest, _), own in alike.items()]
    folders: dict[str, list[str]] = {}
    for command in merged:
        folder = _OUT.search(command)
        parent = folder[1].rpartition("/")[0] if folder else ""
        folders.setdefault(_OUT.sub(f" --out {parent}/", command), []).append(command)
    return [own[0] if len(own) == 1 else _in_braces(own) for own in folders.values()]


def _in_braces(commands: Sequence[str]) -> str:
    folders = [_OUT.findall(command)[0] for command in commands]
    names = ",".join(folder.rpartition("/")[2] for folder in folders)
    return commands[0].replace(folders[0], f"{folders[0].rpartition('/')[0]}/{{{names}}}")


def _merged(rest: str, commands: Sequence[str]) -> str:
    found = {
        seed
        for command in commands
        for first, last in _SEEDS.findall(command)
        for seed in range(int(first), int(last or first) + 1)
    }
    variants = dict.fromkeys(name for command in commands for name in _VARIANTS.findall(command))
    named = "".join(f" --variant {name}" for name in variants)
    if not found:
        return rest + named
    first, last = min(found), max(found)
    whole = len(found) == last - first + 1 > 1
    seeds = f"{first}-{last}" if whole else ",".join(map(str, sorted(found)))
    return f"{rest} --seeds {seeds}{named}"


def _note(note: str) -> str:
    """What was noted, with the command in it, if there is one, as code."""
    words, started, command = note.partition("started with ")
    return f"{words}{started}`{command}`" if started else f"`{note}`"


def _machine(machine: dict[str, Any]) -> str:
    cores, hosts = machine["cores"], machine["hosts"]
    where = f"{cores} core{'s' * (cores > 1)}" if hosts == 1 else f"{hosts} hosts, {cores} cores together"
    if not cores:
        where = "one process"
    return f"{where}, {machine['cpu']}, {machine['memory_bytes'] / 1e9:.0f} GB, {machine['mpi']}"


def _between(first: str, last: str) -> str:
    return first if first == last else f"{first} to {last}"


# --- rows of benchmarks -----------------------------------------------------------------------------


def rows(name: str, **parameters: object) -> list[dict[str, Any]]:
    """The rows of a record of `bench` that have these parameters."""
    wanted = parameters.items()
    return [row for row in content(name) if all(row["parameters"].get(k) == v for k, v in wanted)]


def one(name: str, **parameters: object) -> dict[str, Any]:
    """The row that has these parameters. Raises LookupError unless there is exactly one."""
    found = rows(name, **parameters)
    if len(found) != 1:
        raise LookupError(f"{name}.json has {len(found)} rows with {parameters}")
    return found[0]


def values(row: dict[str, Any], column: str) -> list[float]:
    """The column's number of each launch."""
    return [float(launch[column]) for launch in row["launches"]]


def first(row: dict[str, Any], column: str) -> Any:
    """The column of a row's only launch."""
    (launch,) = row["launches"]
    return launch[column]


# --- numbers in words -------------------------------------------------------------------------------


def digits(value: float, count: int = 3) -> str:
    """So many significant digits, no exponent.

    >>> digits(0.01234), digits(12345.0), digits(2.0), digits(1.999), digits(-0.5, 2), digits(float("inf"))
    ('0.0123', '12,345', '2.00', '2.00', '-0.50', '∞')
    """
    if value == 0 or isinf(value):
        return "∞" if value else "0"
    rounded = float(f"{value:.{count}g}")
    if abs(rounded) >= 10 ** (count - 1):
        return f"{value:,.0f}"
    decimals = count - 1 - int(f"{rounded:e}".partition("e")[2])
    return f"{rounded:.{decimals}f}"


def time(us: float) -> str:
    """Microseconds with the unit that suits them.

    >>> time(4.53), time(1690.0), time(2_060_000.0), time(0.5), time(999.96)
    ('4.53 µs', '1.69 ms', '2.06 s', '0.500 µs', '1.00 ms')
    """
    for unit, factor in (("µs", 1.0), ("ms", 1e3)):
        if float(f"{us / factor:.3g}") < 1000:
            return f"{digits(us / factor)} {unit}"
    return f"{digits(us / 1e6)} s"


def span(numbers: Sequence[float], show: Any = digits) -> str:
    """The median of several launches, with the smallest and the largest where the digits shown differ.

    >>> span([1.0, 1.5, 1.25]), span([2.0])
    ('1.25 (1.00 to 1.50)', '2.00')
    """
    low, middle, high = show(min(numbers)), show(median(numbers)), show(max(numbers))
    return middle if low == high else f"{middle} ({low} to {high})"


def ranged(triple: Sequence[float] | None) -> str:
    """(median, smallest, largest) of `pace` as `1.2 (1.1 to 1.3)`."""
    return span(triple) if triple else NOTHING


def interval(triple: Sequence[float] | None, show: Any = digits) -> str:
    """(median, low, high) as `1.2 [1.1, 1.3]`."""
    if triple is None:
        return NOTHING
    middle, low, high = (show(value) for value in triple)
    return middle if low == high else f"{middle} [{low}, {high}]"


def met(numbers: Sequence[float], target: float, *, at_least: bool) -> str:
    """How many launches meet a target: "target 0.70, met by 8 of 9 runs"."""
    count = sum(value >= target if at_least else value <= target for value in numbers)
    runs = f"{count} of {len(numbers)} runs"
    return f"met by {runs}" if len(numbers) > 1 else ("met" if count else "missed")
