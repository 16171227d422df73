"""The report in a real browser: it draws without an error, sorts, toggles, fits a phone, and goes dark."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from qafel_analysis.example import Example, write
from qafel_analysis.report import page as report

from tests.system.browser import Page, chromium
from tests.unit.analysis.report.test_page import malicious

pytestmark = pytest.mark.skipif(chromium() is None, reason="needs chromium")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Three settings over three seeds, an evil file and a bad one."""
    folder = tmp_path_factory.mktemp("report")
    for seed in range(3):
        for name, example in {
            "q4": Example(messages=6000, seed=seed, uploads_to_target=1100 + 40 * seed),
            "q8": Example(messages=6000, seed=seed, bits=8, uploads_to_target=1050 + 30 * seed),
            "fedbuff": Example(
                messages=6000, seed=seed, algorithm="fedbuff", uploads_to_target=1000 + 20 * seed
            ),
        }.items():
            write(folder / f"{name}-{seed}.h5", example)
    malicious(folder)
    (folder / "bad.h5").write_bytes(b"no trace")
    report.write(sorted(folder.glob("*.h5")), folder / "report.html")
    return folder / "report.html"


@pytest.fixture(scope="module")
def page(file) -> Iterator[Page]:
    with Page() as tab:
        tab.open(file)
        yield tab


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def column(page: Page, table: str, number: int) -> list[str]:
    return page.run(
        f"[...document.querySelectorAll('#{table} tbody tr')].map(r => r.cells[{number}].dataset.v ?? '')"
    )


def test_it_draws_all_its_figures_without_an_error_and_runs_nothing_of_a_file(page):
    assert page.errors == []
    assert page.run("document.querySelectorAll('.plot').length") >= 8
    assert page.run("[...document.querySelectorAll('.plot')].every(p => p.querySelector('svg.main-svg'))")
    assert page.run("window.evil === undefined")
    assert page.run("document.querySelectorAll('img, script[src]').length") == 0


def test_a_screenshot_is_not_blank_and_each_figure_has_colours(page):
    assert pixels(page.screenshot()).std() > 10
    for name in ("convergence", "bytes", "trade-off", "gap", "staleness"):
        shown = pixels(page.screenshot(f"#figure-{name} .plot"))
        coloured = (shown.max(axis=2) - shown.min(axis=2) > 60).sum()
        assert coloured > 50, name


def test_a_table_sorts_by_number_up_and_down_and_filters(page):
    heading = "#runs-table th:nth-child(6) button"  # uploads
    page.click(heading)
    up = [float(v) for v in column(page, "runs-table", 5)]
    page.click(heading)
    down = [float(v) for v in column(page, "runs-table", 5)]
    assert len(set(up)) > 1
    assert up == sorted(up)
    assert down == sorted(up, reverse=True)
    assert page.run("document.querySelector('#runs-table th:nth-child(6)').ariaSort") == "descending"
    page.run(
        "(() => { const i = document.querySelector('input[data-table=runs-table]'); i.value = 'fedbuff float32';"
        " i.dispatchEvent(new Event('input')); })()"
    )
    assert page.run("document.querySelectorAll('#runs-table tbody tr:not([hidden])').length") == 3
    assert page.run("document.querySelector('output[data-count=runs-table]').textContent") == "3 of 10 rows"


def test_a_click_on_a_legend_hides_the_curve_and_another_shows_it_again(page):
    curves = "document.querySelectorAll('#figure-convergence .scatterlayer .trace').length"
    before = page.run(curves)
    entry = "#figure-convergence .legend button"
    page.click(entry)
    page.wait(f"{curves} < {before}")
    assert page.run(f"document.querySelector('{entry}').ariaPressed") == "false"
    page.click(entry)
    page.wait(f"{curves} === {before}")


def test_a_menu_changes_what_a_figure_shows(page):
    title = "document.querySelector('#figure-convergence .ytitle').textContent"
    assert page.run(title) == "accuracy"
    page.run(
        "(() => { const s = document.querySelector('#figure-convergence select'); s.value = 'loss';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    page.wait(f"{title} === 'loss'")


def test_dragging_over_a_figure_enlarges_that_part(page):
    span = "(r => r[1] - r[0])(document.querySelector('#figure-gap .plot')._fullLayout.xaxis.range)"
    before = page.run(span)
    page.click("#figure-gap h3")
    area = "document.querySelector('#figure-gap .nsewdrag').getBoundingClientRect()"
    x, y, width, height = page.run(f"(r => [r.x, r.y, r.width, r.height])({area})")
    for kind, share in (
        ("mousePressed", 0.3),
        ("mouseMoved", 0.5),
        ("mouseMoved", 0.7),
        ("mouseReleased", 0.7),
    ):
        page.call(
            "Input.dispatchMouseEvent", type=kind, x=x + share * width, y=y + (0.2 + share / 2) * height,
            button="left", buttons=1, clickCount=1,
        )  # fmt: skip
    page.wait(f"{span} < {0.6 * before}")


def test_it_fits_the_width_of_a_phone(page):
    page.resize(360, 740)
    try:
        page.wait(
            "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg').clientWidth <= 360)"
        )
        assert page.run("document.documentElement.scrollWidth") <= 360
        assert page.run("parseFloat(getComputedStyle(document.body).fontSize)") >= 16
    finally:
        page.resize(1280, 900)


def test_it_is_dark_where_the_reader_wants_it_dark(file):
    with Page(dark=True) as dark:
        dark.open(file)
        shown = pixels(dark.screenshot())
        assert np.median(shown) < 60
        assert shown.max() > 200  # and can be read
        ink = dark.run("getComputedStyle(document.querySelector('#figure-gap .xtitle')).fill")
        assert min(map(int, ink.removeprefix("rgb(").removesuffix(")").split(","))) > 200
        assert dark.errors == []


def test_the_command_writes_the_page(file, tmp_path):
    command = [sys.executable, "-c", "from qafel_analysis.commands.app import main; main()", "report"]
    runs = map(str, sorted(file.parent.glob("q*.h5")))
    done = subprocess.run(
        [*command, *runs, "-o", "page.html"], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout) == (0, "page.html\n"), done.stderr
    assert 4e6 < (tmp_path / "page.html").stat().st_size < 15e6
