"""Blocks of slow links: a column for each pair of codecs that a record has."""

from __future__ import annotations

import pytest

from docs.render import links
from docs.render.records import NOTHING

ONE_BIT = "qafel, eden 1 bits up, eden 1 bits down"


def pace(**seconds: float) -> dict:
    """A record of `pace` in which every quantity of an algorithm is this."""
    quantities = links._SHOWN
    return {
        "algorithms": {name: {q: [value] * 3 for q in quantities} for name, value in seconds.items()},
        "fedbuff_over": {
            q: {name: [seconds["fedbuff"] / v] * 3 for name, v in seconds.items() if name != "fedbuff"}
            for q in quantities
        },
    }


@pytest.fixture
def lines(monkeypatch):
    """The table's lines from the records of two links, split into cells."""

    def of(near: dict, far: dict) -> list[list[str]]:
        monkeypatch.setattr(links, "content", {"near": near, "far": far}.__getitem__)
        monkeypatch.setattr(links, "origin", lambda *names: "")
        text = links._links({"1 Gbit/s": "near", "100 Mbit/s": "far"})
        return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]

    return of


def test_a_variant_that_only_one_link_has_is_a_column_all_the_same(lines):
    three = pace(**{"qafel, qsgd 4 bits up, qsgd 4 bits down": 2.0, ONE_BIT: 1.0, "fedbuff": 8.0})
    header, _, *rows = lines(pace(qafel=3.0, fedbuff=6.0), three)
    assert header[2:] == [
        "QAFeL, 4 bits up and down",
        "QAFeL, eden, 1 bit up and down",
        "FedBuff, float32",
        "FedBuff / QAFeL, 4 bits",
        "FedBuff / QAFeL, eden, 1 bit",
    ]
    steps = {row[0]: row[2:] for row in rows if row[1] == "seconds per server step"}
    assert steps["1 Gbit/s"] == ["3.00", NOTHING, "6.00", "2.00", NOTHING]
    assert steps["100 Mbit/s"] == ["2.00", "1.00", "8.00", "4.00", "8.00"]


def test_a_variant_that_no_link_has_is_no_column(lines):
    header, *_ = lines(pace(qafel=3.0, fedbuff=6.0), pace(qafel=3.0, fedbuff=6.0))
    assert header[2:] == ["QAFeL, 4 bits up and down", "FedBuff, float32", "FedBuff / QAFeL, 4 bits"]
