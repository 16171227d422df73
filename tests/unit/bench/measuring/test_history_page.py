"""The page of a history: every point, every change, and nothing that a file's name could smuggle in."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from qafel_mpi.bench.measuring.history import Change, Point, Series
from qafel_mpi.bench.measuring.history_page import page


def made(count: int = 6, changes: tuple[Change, ...] = (), file: str = "a.json") -> Series:
    points = tuple(
        Point(file, f"2026-11-{d:02d}T03:00:00+00:00", "c" * 40, float(d)) for d in range(1, count + 1)
    )
    return Series("p2p", {"bytes": 8}, "median_us", points, changes)


class Tags(HTMLParser):
    """Sees that every element that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.seen.append(tag)


def read(text: str) -> Tags:
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    return tags


def test_every_point_and_every_change_is_drawn_and_listed() -> None:
    text = page([made(changes=(Change(3, 2.0, 5.0, 1.5, 1e-6),)), made(4)])
    tags = read(text)
    assert tags.seen.count("circle") == 10
    assert text.count('class="change"') == 1
    assert text.count('class="mean"') == 3
    assert re.search(r"2026-11-04 03:00.*cccccccccc.*2</td>.*5 µs</td>.*\+150\.0%", text)


def test_without_changes_the_page_says_so_and_without_series_too() -> None:
    assert "No change was found." in page([made()])
    assert "No row is in two files." in page([])
    read(page([]))


def test_equal_values_are_a_line_and_names_are_text() -> None:
    flat = Series(
        "p2p", {"bytes": "<script>"}, "ratio", tuple(Point("<b>.json", "2026", "", 1.0) for _ in range(3))
    )
    text = page([flat])
    read(text)
    assert "<script>" not in text
    assert "<b>" not in text
    assert "nan" not in text
