"""Code of the user's own: the working folder comes first, whatever else has that name."""

from __future__ import annotations

import code
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qafel_mpi import own
from qafel_mpi.parsing import DataError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("name", ["code", "test", "numpy", "mine"])
def test_a_file_in_the_working_folder_comes_before_a_module_of_that_name(folder: Path, name: str) -> None:
    (folder / f"{name}.py").write_text("def made():\n    return 'of the folder'\n")
    for _ in range(2):
        assert own.load("task.dataset", f"{name}:made")() == "of the folder"


def test_what_others_import_stays_the_module_that_they_mean(folder: Path) -> None:
    (folder / "code.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Made:\n    x: 'int' = 1\n"
    )
    assert own.load("task.model", "code:Made")().x == 1
    assert importlib.import_module("code") is code


def test_a_module_that_fails_is_not_kept(folder: Path) -> None:
    (folder / "code.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            own.load("task.dataset", "code:made")


def test_what_is_not_there_is_said_with_the_setting(folder: Path) -> None:
    (folder / "code.py").write_text("x = 1\n")
    for name, why in (
        ("code:made", "has no attribute 'made'"),
        ("code:x", "this is a int"),
        ("none_such:x", "none_such"),
    ):
        with pytest.raises(DataError, match=f"task.dataset = '{name}': .*{why}"):
            own.load("task.dataset", name)
