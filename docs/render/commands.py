"""The command that makes each record of docs/results from its runs: pages print what record.sh has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import product

from docs.render.pages import ROOT

SCRIPT = ROOT / "docs/results/record.sh"
_LOOP = re.compile(r"for (?P<name>\w+) in (?P<values>.+); do")
_SET = re.compile(r"(?P<name>\w+)=(?P<value>\S+)")
_RECORD = re.compile(r"docs/results/([\w-]+)\.json")
_DEFAULT = re.compile(r"\$\{\w+:-([^}]*)\}")


def analysis(name: str) -> str | None:
    """What makes docs/results/NAME.json; None where record.sh puts the command together from its arguments."""
    return _commands(SCRIPT.read_text(encoding="utf-8")).get(name)


@cache
def _commands(script: str) -> Mapping[str, str]:
    """Record -> its command. Of two, the first.

    >>> _commands('''of=$raw/findings
    ... for y in gap loss; do
    ...     qafel-analysis curves $of/a/*.h5 --y $y \\\\
    ...         --record $out/a-$y.json
    ... done''')
    {'a-gap': 'qafel-analysis curves runs/results/findings/a/*.h5 --y gap --record docs/results/a-gap.json', \
'a-loss': 'qafel-analysis curves runs/results/findings/a/*.h5 --y loss --record docs/results/a-loss.json'}
    """
    found: dict[str, str] = {}
    for command in _expanded(script):
        named = _RECORD.search(command)
        if named and "$" not in command:
            found.setdefault(named[1], command)
    return found


def _expanded(script: str) -> Iterator[str]:
    """Its lines that write a record, with their variables' values; one in a loop for each turn."""
    known = {"raw": "runs/results", "out": "docs/results"}
    loops: list[tuple[str, list[str]]] = []
    for line in map(str.strip, re.sub(r"\\\n\s*", "", script).splitlines()):
        if loop := _LOOP.fullmatch(line):
            loops.append((loop["name"], _DEFAULT.sub(r"\1", loop["values"]).split()))
        elif line == "done":
            loops.pop()
        elif (setting := _SET.fullmatch(line)) and setting["name"] not in known:
            known[setting["name"]] = setting["value"]
        elif line.startswith(("qafel-analysis ", "python ")):
            for values in product(*(values for _, values in loops)):
                names = dict(zip((name for name, _ in loops), values, strict=True))
                yield _with(line, names | known)


def _with(line: str, values: Mapping[str, str]) -> str:
    """`of` is in terms of `raw`, so twice."""
    for _ in range(2):
        line = re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), line)
    return line
