"""The report: what it says is what the files say, it is one file, and nothing in a file can become its code."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import h5py
import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.example import Example, write
from qafel_analysis.figures.collect import Collection, collect
from qafel_analysis.read.traffic import EDGES_S
from qafel_analysis.report import charts as report_charts
from qafel_analysis.report import messages as report_messages
from qafel_analysis.report import page as report
from qafel_analysis.report import tables as report_tables
from qafel_analysis.report import words as report_words
from qafel_analysis.tables.compare import saving
from typer.testing import CliRunner

EVIL = "</script><script>window.evil=1</script><img src=x onerror=window.evil=2>&\"'"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("runs")
    for seed, (ours, theirs) in enumerate([(800, 700), (840, 720), (860, 740)]):
        write(made / f"qafel-{seed}.h5", Example(messages=3000, seed=seed, uploads_to_target=ours))
        fedbuff = Example(messages=3000, seed=seed, algorithm="fedbuff", uploads_to_target=theirs)
        write(made / f"fedbuff-{seed}.h5", fedbuff)
    return made


@pytest.fixture(scope="module")
def found(folder) -> Collection:
    return collect(sorted(folder.glob("*.h5")), details=2, intervals=100)


class Tags(HTMLParser):
    """Every tag with its attributes, and the text of every script."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def test_faults_have_a_table_where_there_are_any(found):
    assert report_tables.faults(found.runs) == ""
    text = report_tables.faults([found.runs[0] | {"fault_counts": {"rank died": 2, EVIL: 1}}])
    assert "rank died" in text
    assert "<img" not in text


def test_energy_has_a_table_where_it_was_looked_for(found):
    assert report_tables.energy(found.runs) == ""
    measured = {"cpu_joules": 1234.0, "cpu_joules_per_upload": 1.25}
    refused = {"energy_notes": {"gpu": f"no NVML {EVIL}"}}
    text = report_tables.energy([found.runs[0] | measured, found.runs[1] | refused])
    for words in ('<td class=n data-v="1234">1,234</td>', "1.25", "not measured", "no NVML"):
        assert words in text
    assert "<img" not in text


def test_the_findings_say_how_much_less_was_sent_with_the_interval_and_how_many_more_uploads(found):
    words = next(report_words.findings(found))
    qafel, fedbuff = found.groups
    assert (qafel.algorithm, fedbuff.algorithm) == ("qafel", "fedbuff")
    for key in ("payload_bytes_up", "payload_bytes_down"):
        ratio = saving(qafel, fedbuff, key)
        assert ratio is not None
        assert ratio.known
        assert f"{ratio.value:.2f}× fewer [{ratio.low:.2f}, {ratio.high:.2f}]" in words
    uploads = qafel.mean("uploads") / fedbuff.mean("uploads")
    assert uploads > 1.1
    assert f"with {uploads:.2f} times as many uploads [" in words
    assert words.startswith("To accuracy ≥ 0.9, qafel")
    assert "Geometric means over 3 and 3 runs" in words


def test_a_run_that_missed_its_target_and_too_few_runs_for_an_interval_are_said(tmp_path):
    write(tmp_path / "a.h5", Example(messages=2000))
    write(tmp_path / "b.h5", Example(messages=2000, algorithm="fedbuff"))
    write(tmp_path / "c.h5", Example(messages=2000, bits=2, uploads_to_target=10**6))
    words = list(report_words.findings(collect(sorted(tmp_path.glob("*.h5")))))
    assert any("too few for an interval" in w for w in words)
    assert any("2 bits" in w and "1 of 1 runs never reached accuracy ≥ 0.9" in w for w in words)


def test_every_figure_is_one_that_plotly_knows(found):
    go = pytest.importorskip("plotly.graph_objects")
    made = [*report_charts.charts(found), *report_messages.details(found)]
    names = {c.name.partition("-")[0] for c in made}
    assert names >= {
        "convergence",
        "bytes",
        "trade",
        "gap",
        "staleness",
        "timeline",
        "links",
        "latency",
        "durations",
    }
    for chart in made:
        assert chart.variants
        for variant in chart.variants:
            assert len(variant.choice) == len(chart.menus)
            go.Figure(data=variant.traces, layout=variant.layout)


def test_the_tails_of_each_kind_of_message_stand_beside_its_histogram(found):
    text = report_tables.tails(found.details)
    traffic = found.details[0].traffic
    assert text.count("<tr>") == 1 + sum(len(d.traffic.kinds) for d in found.details)
    assert "latency, p99.9" in text
    (chart, *_) = [c for c in report_messages.details(found) if c.name.startswith("durations")]
    sends = next(v for v in chart.variants if v.choice == ("send",))
    assert {t["name"] for t in sends.traces} == set(traffic.sends_s)
    for variant in chart.variants:
        for trace in variant.traces:  # each bar has two ends
            assert sum(filter(None, trace["y"])) == pytest.approx(2, abs=1e-3)


def test_a_histogram_has_gaps_where_no_message_was():
    counts = np.zeros(220, int)
    counts[[10, 11, 20]] = 6, 2, 2
    x, y, words = report_messages._outline(counts)
    assert np.isnan(y).tolist() == [False] * 4 + [True] + [False] * 2
    assert [v for v in y if v == v] == [0.6, 0.6, 0.2, 0.2, 0.2, 0.2]
    assert x[1] == x[2] == EDGES_S[11]
    assert words[-1].startswith("2 took 0.001 to 0.00112 ms")


def test_no_messages_have_no_tails():
    assert report_tables.tails([]) == ""


def test_a_figure_stays_small_however_many_settings_it_shows(found):
    from qafel_analysis.figures.convergence import Band

    x = np.arange(200.0)
    made = [Band(str(k), x, x, x, x, 3) for k in range(200)]
    points = sum(len(t["x"]) for t in report_charts._curves(made))
    assert points <= 3 * report_charts._MOST_POINTS


def test_the_page_is_one_file_that_asks_for_nothing(folder, tmp_path):
    out = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["report", *map(str, sorted(folder.glob("*.h5"))), "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert out.name in done.stdout
    page = Tags(out.read_text(encoding="utf-8"))
    for tag, attributes in page.tags:
        assert not any((attributes.get(name) or "").startswith(("http", "//")) for name in ("src", "href")), (
            tag
        )
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed")]
    assert "default-src 'none'" in out.read_text(encoding="utf-8")
    data = json.loads(page.scripts[0])
    assert {chart["name"] for chart in data} >= {"convergence", "bytes"}


def test_bad_files_are_listed_and_spoil_nothing(folder, tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no trace")
    (tmp_path / "empty.h5").touch()
    out = tmp_path / "report.html"
    paths = [*sorted(folder.glob("*.h5")), tmp_path / "bad.h5", tmp_path / "empty.h5", tmp_path / "none.h5"]
    found = report.write(paths, out)
    assert len(found.drawn) == 6
    text = out.read_text(encoding="utf-8")
    assert "3 files could not be read" in text
    for name in ("bad.h5", "empty.h5", "none.h5"):
        assert re.search(rf"<li>[^<]*{name}: ", text)


def test_where_nothing_can_be_read_nothing_is_written(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"no trace")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "bad.h5"), "-o", str(tmp_path / "r.html")])
    assert done.exit_code == 2
    assert not (tmp_path / "r.html").exists()


def malicious(folder: Path) -> Path:
    """A trace with a tag in every string that a file can bring, its own name among them."""
    path = write(folder / "<img src=x onerror=window.evil=3>.h5", Example(messages=2000))
    with h5py.File(path, "r+") as file:
        text = str(file.attrs["experiment"]).replace('"made-up"', json.dumps(EVIL))
        file.attrs["experiment"] = text
        for name, value in file.attrs.items():
            if isinstance(value, str) and name not in ("experiment", "driver"):
                file.attrs[name] = EVIL
        ranks = file["ranks"][:]
        for name in ("host", "device", "device_name", "mpi_library"):
            ranks[name] = EVIL.encode()[: ranks.dtype[name].itemsize]
        file["ranks"][...] = ranks
    return path


def test_every_string_of_a_file_is_escaped(tmp_path):
    found = report.write([malicious(tmp_path)], tmp_path / "report.html")
    assert len(found.drawn) == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Tags(text)
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script"] * 3
    assert not [a for tag, a in page.tags if tag == "img" or any(name.startswith("on") for name in a)]
    assert "window.evil" in text  # it is shown, as text
    assert all(chart["variants"] for chart in json.loads(page.scripts[0]))


def test_a_table_has_what_is_read_and_what_it_sorts_by():
    columns = [
        report_tables.Column[float]("a<b", lambda v: f"<{v}>"),
        report_tables.Column[float]("n", lambda v: f"{v:.0f}", lambda v: v if v > 0 else None),
    ]
    text = report_tables.html("t", "c", columns, [1.5, -1.0])
    assert '<td>&lt;1.5&gt;</td><td class=n data-v="1.5">2</td>' in text
    assert "<td class=n>-1</td>" in text
    assert "a&lt;b" in text


def test_the_command_to_repeat_a_run_names_its_ranks(found):
    text = report.page(found, "")
    assert "mpirun -n 5 qafel-mpi run qafel-0.toml --out repeated.h5" in text
    assert "5 × nowhere, cpu, made up" in text
