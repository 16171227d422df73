"""The examples of README and docs/, run as a reader runs them: a page's blocks in their order, in one folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from qafel_analysis.example import Example, write

from tests.documents import Block, Page, pages
from tests.support import ROOT

SECONDS = 300  # for one block; most take two
RUN = [page for page in pages() if any(b.language in ("sh", "python") and not b.excuse for b in page.blocks)]
# What a reader has made before: .venv by `make env`. make itself would test and install here; its targets are
# looked up in tests/unit/docs/test_readme.py.
PRELUDE = "make() { :; }\n"
# What these pages take for granted and one machine does not have: a batch system, hosts, a shared folder, much time.
STAND_INS = {
    ROOT / "docs/clusters.md": f". {ROOT}/tests/system/stand_ins.sh\n",
    ROOT
    / "README.md": 'mpirun() { shift 2; command mpirun -n 2 "$@" --set stop.uploads=100; }\n',  # -n N RUN
}
SHARED = "/shared"  # in the pages' commands


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As the repository's folder looks to a reader who has put the examples into it."""
    shutil.copytree(ROOT / "jobs", tmp_path / "jobs")
    shutil.copytree(ROOT / "docs/examples", tmp_path, dirs_exist_ok=True)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "shared/runs").mkdir(parents=True)
    shutil.copy(ROOT / "docs/examples/mysuite.toml", tmp_path / "shared/mine.toml")
    return tmp_path


def done(block: Block, folder: Path) -> subprocess.CompletedProcess[str]:
    if block.language == "python":
        command = [sys.executable, "-"]
        text = block.text
    else:
        command = ["bash", "-e"]
        text = PRELUDE + STAND_INS.get(block.page, "") + block.text.replace(SHARED, f"{folder}{SHARED}")
    home = {} if block.commands else {"HOME": str(folder)}  # a block that only moves files
    return subprocess.run(
        command, input=text, cwd=folder, capture_output=True, text=True, timeout=SECONDS,
        env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"} | home,
    )  # fmt: skip


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.path.relative_to(ROOT)))
def test_the_examples_of_a_page_run_in_their_order(page: Page, folder: Path) -> None:
    if page.path != ROOT / "README.md":  # whose own examples make this trace
        write(folder / "runs/a.h5", Example(messages=2_000))
    for block in page.blocks:
        if block.language in ("sh", "python") and not block.excuse:
            ended = done(block, folder)
            assert ended.returncode == 0, f"{block.text}\n{ended.stdout}\n{ended.stderr}"
            quiet = block.listing or "make " in block.text or (block.language == "sh" and not block.commands)
            assert ended.stdout or quiet, f"{block.text} says nothing"


def test_an_example_that_fails_is_seen(folder: Path) -> None:
    page = folder / "page.md"
    page.write_text("```sh\nqafel-mpi settings nonsense\necho on\n```\n\n```python\nimport nonsense\n```\n")
    assert [done(block, folder).returncode for block in Page(page).blocks] == [2, 1]
