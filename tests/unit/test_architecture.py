"""docs/architecture.md says what the code says: the numbered steps, the functions, the floors, the paths."""

from __future__ import annotations

import ast
import io
import re
import tokenize

import pytest

from tests.support import ROOT
from tests.unit.test_floors import FLOORS

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"<!-- steps: (.+?) -->\n(.+?)<!-- end -->", PAGE, re.DOTALL)
PLACES = sorted(set(re.findall(r"`([\w./-]+\.py):([\w.]+)`", PAGE)))


def numbered(text: str) -> list[tuple[int, str]]:
    """The steps of a numbered list, without the functions behind them."""
    return [(int(n), words) for n, words in re.findall(r"^(\d+)\. (.+?) `", text, re.MULTILINE)]


def numbered_comments(source: str) -> list[tuple[int, str]]:
    comments = [
        t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT
    ]
    return [(int(m[1]), m[2]) for text in comments if (m := re.match(r"# (\d+)\. (.+)", text))]


def names_in(tree: ast.Module) -> set[str]:
    """Functions, classes and methods, as the page writes them."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)
            }
    return found


@pytest.mark.parametrize(("files", "steps"), BLOCKS, ids=["wall", "virtual"])
def test_the_numbered_steps_of_the_code_are_those_of_the_page(files: str, steps: str) -> None:
    of_files = [numbered_comments((ROOT / name).read_text(encoding="utf-8")) for name in files.split()]
    on_page = numbered(steps)
    assert sorted(step for found in of_files for step in found) == on_page
    assert [n for n, _ in on_page] == list(range(1, len(on_page) + 1))
    assert all(found == sorted(found) for found in of_files), "a file is read from top to bottom"


def test_a_step_whose_words_differ_is_seen() -> None:
    assert numbered_comments("def f():\n    # 2. Take it.\n    x = '# 3. no comment'\n") == [(2, "Take it.")]
    assert numbered("2. Take that. `a.py:f`\n") == [(2, "Take that.")]


@pytest.mark.parametrize(("path", "name"), PLACES)
def test_every_function_that_the_page_names_exists(path: str, name: str) -> None:
    assert name in names_in(ast.parse((ROOT / path).read_text(encoding="utf-8")))


def test_every_path_that_the_page_names_exists() -> None:
    paths = re.findall(r"`((?:qafel_mpi|tests|analysis|docs)/[\w./-]*)[:`]", PAGE)
    assert len(paths) > 50
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_the_floors_of_the_page_are_those_of_the_test() -> None:
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|", PAGE, re.MULTILINE)
    assert {room: int(floor) for floor, room in rows} == FLOORS
