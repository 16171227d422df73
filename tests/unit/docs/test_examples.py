"""The Python in docs/trace.md and in the package's docstring runs, and the sums are the totals."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import qafel_analysis
from qafel_analysis.example import Example, write

from tests.support import ROOT

LISTINGS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/trace.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a made-up run in runs/a.h5."""
    folder = tmp_path_factory.mktemp("work")
    write(folder / "runs/a.h5", Example(messages=2_000))
    return folder


@pytest.mark.parametrize("listing", LISTINGS, ids=["h5py", "qafel_analysis"])
def test_a_listing_of_the_trace_page_runs(listing: str, folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    exec(listing, {})
    assert capsys.readouterr().out


def test_the_page_adds_the_bytes_of_uploads_up_to_the_total(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(folder)
    exec(LISTINGS[0], {})
    summed, total = capsys.readouterr().out.split()[-2:]
    assert summed == total


def test_the_docstrings_traffic_by_link_counts_every_message_once(folder: Path, monkeypatch) -> None:
    """A row stands at each end of a message: whoever adds up all rows counts every byte twice."""
    monkeypatch.chdir(folder)
    lines = re.findall(r"^    (\S.*)$", qafel_analysis.__doc__ or "", re.MULTILINE)
    assert ".groupby(" in lines[-1]
    scope: dict[str, object] = {}
    exec("\n".join(lines[:-1]), scope)
    links = eval(lines[-1], scope)
    assert isinstance(links, pd.Series)
    about = qafel_analysis.load("runs/a.h5").attributes
    assert links[:, 0].sum() == about["wire_bytes_up"]
    headers = 64 * about["server_steps"] * about["clients"]
    assert links[0, :].sum() == about["down_links"] + headers
