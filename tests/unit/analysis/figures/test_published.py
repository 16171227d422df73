"""The README's pictures show their records: docs/figures against docs/results."""

from __future__ import annotations

import json
import re

import pytest
from qafel_analysis.figures import paper_grid, published

from tests.support import ROOT

RECORDS, FIGURES = ROOT / "docs/results", ROOT / "docs/figures"


@pytest.mark.parametrize("name", published.PICTURES)
def test_a_committed_picture_shows_the_record_of_its_numbers(name):
    text = (FIGURES / f"{name}.svg").read_text(encoding="utf-8")
    data = b"".join((RECORDS / f"{record}.json").read_bytes() for record in published.PICTURES[name][0])
    assert published.digest(data) in text, f"{name}.svg shows other numbers: run `make figures` and commit it"


@pytest.mark.parametrize("name", published.PICTURES)
def test_the_same_record_gives_the_same_picture(name, tmp_path):
    """Twice the same bytes, and those that are committed where matplotlib is of the version that drew them."""
    first, second = (published.svg(name, RECORDS, tmp_path / k).read_bytes() for k in "ab")
    assert first == second
    assert b"<dc:date>" not in first
    committed = (FIGURES / f"{name}.svg").read_bytes()
    if published.creator().encode() in committed:
        assert first == committed
    else:
        assert len(first) > 10_000


def test_a_picture_changes_with_its_numbers(tmp_path):
    record = json.loads((RECORDS / "accuracy-vs-bytes.json").read_text(encoding="utf-8"))
    for one in record["content"]:
        one["x"] = [2 * x for x in one["x"]]
    (tmp_path / "accuracy-vs-bytes.json").write_text(json.dumps(record))
    changed = published.svg("accuracy-vs-bytes", tmp_path, tmp_path / "out").read_text()
    digest = re.search(r"SHA-256 of the data: \w+", changed)
    assert digest is not None
    assert digest[0] not in (FIGURES / "accuracy-vs-bytes.svg").read_text()


def test_the_grid_shows_ratios_of_uploads_the_right_way_round():
    over = {
        "uploads": {"ratio": 0.5, "low": 0.4, "high": 0.8},
        "payload_bytes_up": {"ratio": 4.0, "low": None},
    }
    over["payload_bytes_up"]["high"] = None
    one = {"setting": "qafel, affine 4 bits up, affine 2 bits down, K = 10", "fedbuff_over_this": over}
    found = paper_grid.ours([one, {"setting": "fedbuff, float32 up, float32 down, K = 10"}])
    assert found == {"uploads": {(4, 2): (2.0, 1.25, 2.5)}, "payload_bytes_up": {(4, 2): (4.0, 4.0, 4.0)}}
    assert set(paper_grid.papers()["uploads"]) == set(paper_grid.BITS)
