"""The examples in docstrings are run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from tests.support import ROOT

TOPS = {"qafel_mpi": "qafel_mpi", "analysis": "qafel_analysis", "docs": "docs"}  # folder -> as it is imported
WITH_EXAMPLES = sorted(
    path.relative_to(ROOT)
    for top in TOPS
    for path in (ROOT / top).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=str)
def test_the_examples_of_a_module_give_what_they_say(path: Path):
    top, *rest = path.with_suffix("").parts
    module = importlib.import_module(".".join((TOPS[top], *rest)))
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
