"""Code of the user's own: the working folder comes first, whatever else has that name."""

from __future__ import annotations

import code
import importlib
from pathlib import Path

import pytest

from qafel_mpi import own
from qafel_mpi.parsing import DataError


@pytest.mark.parametrize("name", ["code", "test", "numpy", "mine"])
def test_a_file_in_the_working_folder_comes_before_a_module_of_that_name(own_folder: Path, name: str) -> None:
    (own_folder / f"{name}.py").write_text("def made():\n    return 'of the folder'\n")
    for _ in range(2):
        assert own.load("task.dataset", f"{name}:made")() == "of the folder"


def test_what_others_import_stays_the_module_that_they_mean(own_folder: Path) -> None:
    (own_folder / "code.py").write_text(
        "from dataclasses import dataclass\n@dataclass\nclass Made:\n    x: 'int' = 1\n"
    )
    assert own.load("task.model", "code:Made")().x == 1
    assert importlib.import_module("code") is code


def test_a_module_that_fails_is_not_kept(own_folder: Path) -> None:
    (own_folder / "code.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(DataError, match=r"ZeroDivisionError: division by zero .*code\.py, line 1"):
            own.load("task.dataset", "code:made")


def test_what_is_not_there_is_said_with_the_setting(own_folder: Path) -> None:
    (own_folder / "code.py").write_text("x = 1\n")
    for name, why in (
        ("code:made", "has no attribute 'made'"),
        ("code:x", "this is a int"),
        ("none_such:x", "none_such"),
    ):
        with pytest.raises(DataError, match=f"task.dataset = '{name}': .*{why}"):
            own.load("task.dataset", name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ndef made(:\n", "SyntaxError: invalid syntax (FILE, line 2)"),
        ("x = {}['top']\n", "KeyError: 'top' (FILE, line 1)"),
        ("import no_such\n", "ModuleNotFoundError: No module named 'no_such' (FILE, line 1)"),
        (
            "from os import no_such\n",
            "ImportError: cannot import name 'no_such'",
        ),
        ("raise SystemExit(0)\n", "it exits: SystemExit: 0 (FILE, line 1)"),
        ("import json\njson.loads('{')\n", "JSONDecodeError: Expecting property name"),
    ],
)
def test_a_file_that_fails_is_one_message_with_its_line(own_folder: Path, text: str, says: str) -> None:
    (own_folder / "mine.py").write_text(text)
    with pytest.raises(DataError) as error:
        own.load("task.dataset", "mine:made")
    said = str(error.value)
    assert said.startswith(
        f"task.dataset = 'mine:made': {says.replace('FILE', str(own_folder / 'mine.py'))[:60]}"
    )
    assert f"{own_folder / 'mine.py'}, line {2 if 'made' in text or 'json' in text else 1})" in said
    assert "PYTHONPATH" not in said, "the module was found"


@pytest.mark.parametrize("name", [":made", ".mine:made", "mine.part:made", "mine:", "mine:a.b"])
def test_a_name_that_is_none_is_said_with_what_it_should_be(own_folder: Path, name: str) -> None:
    (own_folder / "mine.py").write_text("x = 1\n")
    with pytest.raises(DataError, match=f"task.loss = '{name}': .*write 'module:name'"):
        own.load("task.loss", name)


def test_a_fault_of_ours_is_no_fault_of_the_users() -> None:
    code = "with blamed('task.model'):\n    1 / 0"
    with pytest.raises(ZeroDivisionError):
        exec(compile(code, own.__file__, "exec"), {"blamed": own.blamed})
