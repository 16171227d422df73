"""The files of published numbers say where they come from, and pages say of each table which file that is."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path

import pytest

from docs.render import records, summary
from docs.render.blocks import BLOCKS
from tests.support import ROOT

FILES = sorted(records.RESULTS.glob("*.json"))
PAGES = (
    "docs/results.md",
    "docs/findings.md",
    "docs/sizes.md",
    "docs/footguns.md",
    "docs/replay.md",
    "docs/codecs.md",
)
MOST_BYTES = 4_000_000


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_has_the_command_the_date_the_code_and_the_machine_of_its_numbers(path: Path) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    assert found["record"] == 1
    assert found["content"]
    assert "--record" in found["command"] or ".json" in found["command"]
    assert datetime.fromisoformat(found["written"]).tzinfo is not None
    assert found["sources"]
    for source in found["sources"]:
        assert source["command"]
        assert datetime.fromisoformat(source["started"]).year >= 2026
        assert re.fullmatch(r"[0-9a-f]{40}", source["commit"])
        assert source["changed"] is False, "measured with files that differ from the commit"
        assert source["machine"]["cpu"]
        assert source["machine"]["memory_bytes"] > 1e9


def test_the_files_are_small_and_name_no_place_of_the_machine_that_wrote_them():
    assert sum(path.stat().st_size for path in FILES) < MOST_BYTES
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w.*])/(?:home|root|tmp|work|Users|opt)/", text), path.name


@pytest.mark.parametrize(("page", "least"), [("docs/results.md", 15), ("docs/findings.md", 2)])
def test_every_table_of_results_and_findings_is_generated_and_names_its_files(page: str, least: int) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"<!-- generated: ([\w-]+) -->(.*?)<!-- end: \1 -->", text, re.S)
    assert len(blocks) >= least
    for name, body in blocks:
        if name == "findings":  # the list of the others' verdicts
            continue
        assert "](results/" in body, f"block {name} names no file"
        if body.strip().startswith("Not measured yet. [measure.sh](results/measure.sh)"):
            continue
        assert "Command: `" in body
        assert "Date: 20" in body
        assert "Machine: " in body
    by_hand = re.sub(r"<!-- generated: ([\w-]+) -->.*?<!-- end: \1 -->", "", text, flags=re.S)
    numbers = [
        line
        for line in by_hand.splitlines()
        if re.match(r"\| .*\|\s*-?[\d.]+ ?(?:µs|ms|s|%|MB|kB)?\s*\|", line)
    ]
    assert numbers == [], "a table with numbers that no file gives"


def test_every_file_of_results_is_shown_by_a_page():
    pages = "".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)
    figures = {"accuracy-vs-bytes", "timeline"}  # docs/figures shows them
    assert [
        path.stem for path in FILES if f"results/{path.name}" not in pages and path.stem not in figures
    ] == []


def test_the_summary_of_the_readme_has_at_most_twelve_lines_and_its_links_have_a_target():
    lines = summary.summary().splitlines()[2:]
    assert 6 <= len(lines) <= 12
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", page, re.M)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for anchor in re.findall(r"results\.md#([\w-]+)", "\n".join(lines)):
        assert anchor in anchors


def test_a_number_of_a_file_changes_the_block_that_shows_it(monkeypatch):
    found = json.loads((records.RESULTS / "ingest.json").read_text(encoding="utf-8"))
    before = BLOCKS["uploads"]()
    for row in found["content"]:
        for launch in row["launches"]:
            launch["ratio"] = 0.123
    monkeypatch.setattr(records, "record", lambda name: found)
    after = BLOCKS["uploads"]()
    assert after != before
    assert "ratio 0.70, met by 0 of 9 runs" in after


def test_a_row_that_a_file_does_not_have_is_named_with_the_file(monkeypatch):
    monkeypatch.setattr(records, "record", lambda name: {"content": [{"parameters": {"d": 1}}]})
    with pytest.raises(LookupError, match=r"codec\.json has 0 rows with {'d': 2}"):
        records.one("codec", d=2)


def test_commands_that_differ_in_their_files_alone_are_one(monkeypatch):
    machine = {"cores": 4, "hosts": 2, "cpu": "Z80", "memory_bytes": 8e9, "mpi": "MPICH"}

    def source(number: int, day: str) -> dict[str, object]:
        at = f"2026-11-{day}T00:00:00+00:00"
        return {
            "command": f"mpirun -n 2 qafel-mpi bench p2p --json {number}.json",
            "started": at, "last_started": at, "commit": "0123456789", "machine": machine,
        }  # fmt: skip

    made = {"sources": [source(1, "02"), source(2, "01")], "note": "started with x"}
    monkeypatch.setattr(records, "record", lambda name: made)
    assert records.origin("p2p") == (
        "<sub>Command: `mpirun -n 2 qafel-mpi bench p2p`. Note: started with `x`. Date: 2026-11-01 to 2026-11-02. "
        "Machine: 2 hosts, 4 cores together, Z80, 8 GB, MPICH. Commit: `0123456`. "
        "Data: [p2p.json](results/p2p.json).</sub>"
    )


@pytest.mark.parametrize(
    ("numbers", "target", "at_least", "words"),
    [
        ([0.6, 0.7, 0.8], 0.7, True, "met by 2 of 3 runs"),
        ([3.0, 6.0], 5.0, False, "met by 1 of 2 runs"),
        ([3.0], 5.0, False, "met"),
        ([6.0], 5.0, False, "missed"),
    ],
)
def test_a_target_is_met_by_so_many_runs(numbers, target, at_least, words):
    assert records.met(numbers, target, at_least=at_least) == words
