"""The tests mirror the package path by path, and no module outgrows its reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import ROOT

UNIT = ROOT / "tests/unit"
# Where the modules of a folder of tests lie; all others lie in the package.
TOPS = {"analysis": ROOT, "docs": ROOT}
# Tests of no module: of the whole house.
OF_THE_HOUSE = ("test_architecture", "test_docstrings", "test_floors", "test_packaging", "test_rooms")
LONGEST_MODULE = 400  # lines


def counterpart(test: Path, unit: Path = UNIT) -> list[Path]:
    """Where the module, package or document may lie that a file of tests is about."""
    folder = test.parent.relative_to(unit)
    top = TOPS.get(folder.parts[0] if folder.parts else "", ROOT / "qafel_mpi")
    name = test.stem.removeprefix("test_")
    base = top / folder
    return [base / f"{name}.py", base / name, base / f"{name.upper()}.md"]


@pytest.mark.parametrize(
    "test", sorted(UNIT.rglob("test_*.py")), ids=lambda path: str(path.relative_to(UNIT))
)
def test_every_file_of_tests_has_its_module(test):
    if test.parent == UNIT and test.stem in OF_THE_HOUSE:
        return
    places = counterpart(test)
    assert any(place.exists() for place in places), f"none of {', '.join(map(str, places))}"


def test_a_module_a_package_and_a_document_are_counterparts():
    assert ROOT / "qafel_mpi/codecs/qsgd.py" in counterpart(UNIT / "codecs/test_qsgd.py")
    assert ROOT / "qafel_mpi/schemas" in counterpart(UNIT / "test_schemas.py")
    assert ROOT / "qafel_mpi/codecs/FORMAT.md" in counterpart(UNIT / "codecs/test_format.py")
    assert ROOT / "analysis/theory/loggp.py" in counterpart(UNIT / "analysis/theory/test_loggp.py")
    assert not any(place.exists() for place in counterpart(UNIT / "codecs/test_contract.py"))


def test_no_module_is_too_long():
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("qafel_mpi", "analysis", "docs")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: count for path, count in lines.items() if count > LONGEST_MODULE} == {}
