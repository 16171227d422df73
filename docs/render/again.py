"""The claims of docs/findings.md from other records: which statements turn. `make findings SIZE=small` ends with it.

    python -m docs.render.again FOLDER

FOLDER has records of the names of docs/results. A claim none of whose records is there is not repeated; of the rest
the records that are missing are the published ones. A record may have fewer settings: then a statement is judged by
those of which both can tell, and one that is about other settings is left out. A statement turns where it held
and does not now, or the other way round; one that few seeds leave open has not turned. Fails where any has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from docs.render import records
from docs.render.findings import CLAIMS
from docs.render.verdicts import Check, Finding, together


@dataclass(frozen=True)
class Again:
    """A claim from both records. found: None where it was not repeated."""

    heading: str
    published: Finding
    found: Finding | None

    @property
    def repeated(self) -> list[tuple[Check, Check]]:
        """The statements that are in both, each as it was published and as it is found now."""
        of = {check.words: check for check in self.found.checks} if self.found else {}
        pairs = [(old, of[old.words]) for old in self.published.checks if old.words in of]
        return [_alike(old, new) for old, new in pairs if not _of_others(old, new)]

    @property
    def turned(self) -> list[str]:
        """The statements that turned, each with what was measured before and now."""
        return [
            f"{old.words}\n      published: {old.measured}\n      again:     {new.measured}"
            for old, new in self.repeated
            if {old.holds, new.holds} == {True, False}
        ]

    @property
    def line(self) -> str:
        if self.found is None:
            return f"{self.heading}: not repeated"
        still = sum(old.holds == new.holds for old, new in self.repeated)
        missing = len(self.published.checks) - len(self.repeated)
        return (
            f"{self.heading}: {self.found.verdict} (published: {self.published.verdict}); "
            f"{still} of {len(self.repeated)} statements as published, {len(self.turned)} turned"
            + (f", {missing} left out" if missing else "")
        )


def _of_others(old: Check, new: Check) -> bool:
    """Whether both are about several settings, and none is in both."""
    return bool(old.settings and new.settings) and not old.settings.keys() & new.settings.keys()


def _alike(old: Check, new: Check) -> tuple[Check, Check]:
    """Both by the settings of which both could tell; as they are where there are none."""
    told = [name for name in old.settings if None not in (old.settings[name], new.settings.get(name))]
    if not told:
        return old, new
    before, now = (together(one.settings[name] for name in told) for one in (old, new))
    return replace(old, holds=before), replace(new, holds=now)


def again(folder: Path) -> list[Again]:
    """Every claim that is published, in the order of the page."""
    found = []
    for claim in CLAIMS.values():
        if not all(map(records.measured, claim.records)):
            continue
        published = claim.compute()
        if not any((folder / f"{name}.json").exists() for name in published.records):
            found.append(Again(claim.heading, published, None))
            continue
        with records.reading(folder):
            found.append(Again(claim.heading, published, claim.compute()))
    return found


def main(arguments: Sequence[str]) -> int:
    """Print a line a claim, and the statements that turned. Returns an exit code."""
    claims = again(Path(arguments[0]))
    for one in claims:
        print(one.line)
        for words in one.turned:
            print(f"    turned: {words}")
    if all(one.found is None for one in claims):
        print(f"{arguments[0]}: no records of any claim; measure.sh and record.sh make them", file=sys.stderr)
        return 2
    return int(any(one.turned for one in claims))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
