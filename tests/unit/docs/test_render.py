"""The pages say what their functions and files give, and the machinery notices when they do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from docs.render import __main__ as command
from docs.render.blocks import BLOCKS
from docs.render.pages import PageError, block_names, pages, rendered, table
from tests.support import ROOT

PAGE = "# Title\n\n<!-- generated: one -->\n\nold\n\n<!-- end: one -->\n\nby hand\n"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_is_what_its_files_give(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert rendered(text, BLOCKS) == text, f"{page} is out of date: run `make docs` and commit the result"


def test_every_function_writes_a_block_of_just_one_page() -> None:
    used = [name for page in pages() for name in block_names(page.read_text(encoding="utf-8"))]
    assert sorted(used) == sorted(BLOCKS)


def test_a_page_that_differs_is_rendered_and_the_text_by_hand_stays() -> None:
    after = rendered(PAGE, {"one": lambda: "new\n\nlines\n"})
    assert after == PAGE.replace("old", "new\n\nlines")
    assert rendered(after, {"one": lambda: "new\n\nlines\n"}) == after


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("<!-- generated: one -->\n", "has no <!-- end: one -->"),
        ("<!-- end: one -->\n", "ends without having begun"),
        ("<!-- generated: one -->\n<!-- generated: two -->\n", "two begins inside block one"),
        ("<!-- generated: other -->\n<!-- end: other -->\n", "nothing writes block other; known blocks: one"),
    ],
)
def test_markers_that_do_not_fit_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(PageError, match=complaint):
        rendered(text, {"one": lambda: "x"})


def test_the_command_changes_an_old_page_once_and_names_it(tmp_path, monkeypatch, capsys) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(command, "pages", lambda: [page])
    monkeypatch.setattr(command, "BLOCKS", {"one": lambda: "new"})
    assert command.main() == 0
    assert page.read_text(encoding="utf-8") == PAGE.replace("old", "new")
    assert capsys.readouterr().out == f"{page}: rendered\n"
    assert command.main() == 0
    assert capsys.readouterr().out == ""


def test_a_bar_in_a_cell_does_not_open_a_column() -> None:
    assert table(["a"], [["x | y"]]).splitlines()[-1] == "| x \\| y |"
