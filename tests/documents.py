"""Pages of documentation as tests see them: links, anchors, and the code blocks with what may be done with them.

A fenced block is an example that a test runs, unless its info string says why not: ```sh no-test: needs a cluster
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.support import ROOT

PROGRAMS = ("qafel-mpi", "qafel-analysis", "make")
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_LISTING = re.compile(r"# (docs/examples/\S+)\n")
# What starts the ranks of a job, up to the program.
_LAUNCHER = re.compile(r"^(mpirun|srun)$")


@dataclass(frozen=True)
class Block:
    """language: the info string's first word. excuse: why no test runs the block; empty where one does."""

    page: Path
    language: str
    excuse: str
    text: str

    @property
    def listing(self) -> str:
        """The file that the block shows, or an empty string."""
        match = _LISTING.match(self.text)
        return match[1] if match else ""

    @property
    def commands(self) -> list[list[str]]:
        """The calls of PROGRAMS in a shell block, each as its words."""
        if self.language != "sh":
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines for words in commands_of(line)]


@dataclass(frozen=True)
class Page:
    path: Path

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        return [self._block(match) for match in _FENCE.finditer(self.text)]

    @cached_property
    def prose(self) -> str:
        """The page without its blocks."""
        return _FENCE.sub("", self.text)

    @property
    def links(self) -> list[str]:
        """Targets of links, those to the web left out."""
        return [target for target in _LINK.findall(self.prose) if "://" not in target]

    @property
    def inline(self) -> list[str]:
        """What stands between single backticks, on one line or wrapped."""
        return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", self.prose)]

    @property
    def headings(self) -> list[str]:
        return re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)

    @property
    def anchors(self) -> set[str]:
        return {anchor(heading) for heading in self.headings}

    def _block(self, match: re.Match[str]) -> Block:
        language, _, rest = match["info"].partition(" ")
        excuse = rest.partition("no-test:")[2].strip()
        return Block(self.path, language, excuse, match["body"])


def pages() -> list[Page]:
    """README and the other pages of the root, of docs/, jobs/ and findings/."""
    found = [
        path for pattern in ("*.md", "docs/*.md", "jobs/*.md", "findings/*.md") for path in ROOT.glob(pattern)
    ]
    return [Page(path) for path in sorted(found)]


def anchor(heading: str) -> str:
    """As GitHub makes it.

    >>> anchor("The wheel's MPI and a site's"), anchor("2 GiB"), anchor("`run` or /final")
    ('the-wheels-mpi-and-a-sites', '2-gib', 'run-or-final')
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def commands_of(line: str) -> list[list[str]]:
    """The calls of PROGRAMS in a line of shell, without what launches them.

    >>> commands_of("SEED=1 mpirun -n 4 qafel-mpi run digits --seed 3  # three")
    [['qafel-mpi', 'run', 'digits', '--seed', '3']]
    >>> commands_of("make env && cd /tmp; qafel-mpi list | grep mush")
    [['make', 'env'], ['qafel-mpi', 'list']]
    """
    parser = shlex.shlex(line, posix=True, punctuation_chars=True)
    parser.whitespace_split = True
    found: list[list[str]] = []
    call: list[str] = []
    for word in [*parser, ";"]:
        if set(word) <= set("&|;<>()"):
            if begin := [at for at, one in enumerate(call) if one in PROGRAMS]:
                found.append(call[begin[0] :])
            call = []
        else:
            call.append(word)
    return found
