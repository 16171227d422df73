"""Figures for print: everything is drawn, nothing twice, and what is drawn is what the messages say."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from qafel_analysis.example import Example, write
from qafel_analysis.figures import collect, draw, points, style
from qafel_analysis.figures import plots as figures
from qafel_analysis.read import bench, settings, timeline, traffic
from qafel_analysis.tables import grid
from qafel_analysis.tables.compare import groups

from qafel_mpi.trace.reader import Clocks, open_trace
from qafel_mpi.trace_schema import CLOCK, MESSAGES


def bench_row(bench: str, median_us: float, ratio: float, **parameters) -> dict:
    """As `qafel-mpi bench --json` writes it, samples and all."""
    return {"bench": bench, **parameters, "median_us": median_us, "ci95_us": [1.0, 2.0], "ratio": ratio,
            "reference": "beside it", "values_us": [median_us] * 3, "row": {"parameters": parameters}}  # fmt: skip


CODEC_ROWS = [
    bench_row("codec", d / rate, 0.8 if against == "memory" else 9.0, operation=operation, codec="qsgd", bits=4,
              d=d, threads=1, against=against) | {"gb_per_s": rate / 250}
    for operation, rate in (("encode", 900), ("decode_accumulate", 2000))
    for d in (1000, 100_000) for against in ("memory", "torch")
]  # fmt: skip
RANK_ROWS = [
    bench_row("ingest", 10.0 + n, 0.9, clients=n, bytes=size) | {"uploads_per_s": 1e6 / (10.0 + n)}
    for n in (2, 4, 8)
    for size in (1024, 15_000)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two seeds of two settings, QAFeL on three numbers of ranks, and two bench results."""
    made = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        write(made / f"qafel-{seed}.h5", Example(messages=2000, seed=seed))
        write(made / f"fedbuff-{seed}.h5", Example(messages=2000, seed=seed, algorithm="fedbuff"))
    for ranks in (3, 9):
        write(made / f"ranks-{ranks}.h5", Example(messages=2000, ranks=ranks))
    for name, rows in (("codec", CODEC_ROWS), ("ingest", RANK_ROWS)):
        (made / f"{name}.json").write_text(json.dumps({"bench": name, "rows": rows, "provenance": {}}))
    return made


@pytest.fixture(scope="module")
def drawn(folder) -> dict[str, draw.Drawing]:
    paths = sorted(folder.glob("*.h5")) + sorted(folder.glob("*.json"))
    found = collect.collect(paths, details=1, intervals=100)
    assert found.failures == []
    drawings = list(draw.drawings(found))
    assert len({d.name for d in drawings}) == len(drawings)
    return {d.name: d for d in drawings}


def test_every_figure_of_the_list_is_drawn_with_a_caption_and_without_a_title(drawn):
    expected = {
        f"{y}_against_{x}" for y in ("accuracy", "loss") for x in ("uploads", "payload_bytes", "seconds")
    }
    expected |= {"bytes_to_target", "trade_off", "gap", "staleness", "scaling"}
    expected |= {"roofline-codec", "scaling-ingest", "sizes-ingest"}
    assert expected - set(drawn) == set()
    assert all(any(name.startswith(word) for name in drawn) for word in ("timeline-", "links-", "latency-"))
    for drawing in drawn.values():
        assert drawing.caption.endswith(".")
        for axes in drawing.figure.axes:
            assert axes.get_title() == ""
            assert all(text.get_fontsize() >= 6 for text in axes.get_xticklabels())


def test_files_are_vectors_and_an_image_and_the_same_every_time(drawn, tmp_path):
    drawing = drawn["accuracy_against_uploads"]
    pdf, png = style.save(drawing.figure, tmp_path / "a" / drawing.name)
    again, _ = style.save(drawing.figure, tmp_path / "b" / drawing.name)
    assert pdf.read_bytes() == again.read_bytes()
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Subtype /Image" not in pdf.read_bytes()
    from matplotlib.image import imread

    pixels = imread(png)
    assert pixels.shape[0] > 300
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 10


def test_a_figure_with_forty_settings_keeps_its_axes(tmp_path):
    from qafel_analysis.figures.convergence import Band

    x = np.linspace(0, 1, 5)
    bands = [Band(f"setting {k}", x, x + k, x + k, x + k, 2) for k in range(40)]
    figure = figures.convergence(bands, "uploads", "accuracy")
    style.save(figure, tmp_path / "many")
    assert figure.axes[0].get_position().height * figure.get_figheight() > 1.0
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in figure.axes[0].get_lines()}
    assert len(looks) == 40


def test_colours_are_told_apart_in_grey():
    """Neighbouring settings differ in lightness or in their dashes, so that black-and-white print is readable."""
    from matplotlib.colors import to_rgb
    from qafel_analysis.figures.palette import colour, dash

    def luminance(k: int) -> float:
        return float(np.dot(to_rgb(colour(k)), (0.2126, 0.7152, 0.0722)))

    for one in range(8):
        for other in range(one):
            assert dash(one) != dash(other) or abs(luminance(one) - luminance(other)) > 0.1


def test_the_link_matrix_adds_up_to_the_bytes_of_the_run(folder):
    with open_trace(folder / "qafel-0.h5") as trace:
        found = traffic.traffic(trace)
        attributes = trace.attributes
    wire_bytes, each = found.matrix(100)
    assert each == 1
    assert wire_bytes[1:, 0].sum() == attributes["wire_bytes_up"]
    assert wire_bytes[0].sum() == attributes["wire_bytes_down"] * (attributes["ranks"] - 1)
    assert found.links["messages"].sum() == found.kinds["update"][0] + found.kinds["broadcast"][0]
    assert (found.latency["seconds"] > 0).all()
    assert found.latency["bound_s"].max() == pytest.approx(4e-6, rel=0.51)


def test_links_take_memory_by_the_pairs_that_talk_and_not_by_ranks_squared():
    """10,000 ranks, each with the server, in two blocks: a matrix of all pairs would take 800 MB."""
    found = traffic.Traffic(10_000, busy_s=np.zeros((10_000, 2)))
    rows = np.zeros(10_000, dtype=MESSAGES)
    rows["src"], rows["wire_bytes"] = np.arange(10_000), 100
    tracemalloc.start()
    try:
        for _ in range(2):
            traffic._add(found, rows, traffic.SENDER)
        matrix, each = found.matrix(256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6
    assert len(found.links) == 10_000
    assert (found.links["wire_bytes"] == 200).all()
    assert (each, matrix.shape, matrix[:, 0].sum(), matrix[0, 0]) == (40, (250, 250), 2e6, 8000)


def test_messages_without_numbers_are_paired_in_order():
    """A kind whose messages all look alike: the n-th sent on a link is the n-th received."""
    ends = []
    for end, times in ((0, [1.0, 2.0, 3.0]), (1, [1.5, 2.5, 3.5])):
        rows = np.zeros(3, dtype=MESSAGES)
        rows["end"], rows["kind"], rows["src"] = end, 9, 1
        rows["t_post"] = rows["t_complete"] = times
        ends.append(rows)
    found = traffic._latency({0: [ends[0]], 1: [ends[1]]}, Clocks(np.zeros(0, CLOCK), 0.0))
    assert found["seconds"].tolist() == [0.5, 0.5, 0.5]
    assert found["bound_s"].isna().all()


def test_a_latencys_bound_is_that_of_its_two_ranks_at_its_own_time():
    """Rank 1 was read well at 0 s and badly at 10 s, where its clock had wandered: later messages say less."""
    clock = np.zeros(4, dtype=CLOCK)
    clock["rank"], clock["local_s"], clock["error_bound_s"] = [0, 0, 1, 1], [0, 10, 0, 10], [0, 0, 1e-6, 1e-3]
    clock["offset_s"][3] = 0.1
    ends = []
    for end in (0, 1):
        rows = np.zeros(3, dtype=MESSAGES)
        rows["end"], rows["src"], rows["t_post"] = end, 1, [0.0, 5.05, 10.1]
        rows["t_complete"] = rows["t_post"] + 0.5
        ends.append(rows)
    found = traffic._latency({0: [ends[0]], 1: [ends[1]]}, Clocks(clock, 0.0))
    assert found["bound_s"].tolist() == pytest.approx([1e-6, 0.5005e-3, 1e-3])


def test_a_timeline_has_no_holes_and_trainings_reach_over_its_edges(folder):
    with open_trace(folder / "qafel-0.h5") as trace:
        window = timeline.Window(1.0, 1.2)
        found = timeline.intervals(trace, window)
        shares = timeline.shares(found, window)
    clients = found[found["rank"] > 0]
    for _, rows in clients[clients["activity"] != "send"].groupby("rank"):
        assert rows["begin_s"].min() <= window.begin_s
        assert rows["end_s"].max() >= window.end_s
        assert (rows["activity"] == "train").sum() >= 2
    assert shares.sum(axis=1).tolist() == pytest.approx([1.0] * 5, abs=1e-3)  # made-up decodings may overlap
    assert (shares.loc[1:, "train"] > 0.9).all()
    assert shares.loc[0, "train"] == 0


def test_the_front_is_what_no_other_setting_beats_in_both(drawn, folder):
    found = collect.collect([folder / f"{a}-{s}.h5" for a in ("qafel", "fedbuff") for s in (0, 1)])
    front = points.trade_off(found.groups).set_index("label")["front"]
    assert front.to_dict() == {"4/4": True, "fedbuff": False}


def test_runs_that_share_a_name_get_files_of_their_own():
    names = collect.short_names([Path("a/x.h5"), Path("b/x.h5"), Path("x.h5"), Path("b/y.h5")])
    assert len(set(names.values())) == 4


def test_labels_say_what_is_needed_to_tell_settings_apart():
    many = [{f"k{n}": (row >> n) & 1 for n in range(5)} | {"driver": "wall"} for row in range(4)]
    words = settings.telling([m | {f"extra{n}": row for n in range(9)} for row, m in enumerate(many)])
    assert len(set(words)) == 4
    assert all(word.endswith("…") and len(word) < 40 for word in words)
    assert settings.telling([{"a": 1}]) == [""]


def test_bench_results_keep_their_references(folder):
    (codec,) = bench.read_bench(folder / "codec.json")
    roof = bench.roofline(codec)
    assert sorted(set(roof["label"])) == ["decode_accumulate", "encode"]
    assert len(roof) == 4  # not those against other libraries
    np.testing.assert_allclose(roof["gb_per_s"] / roof["reference_gb_per_s"], 0.8)
    (ingest,) = bench.read_bench(folder / "ingest.json")
    scaling = bench.against(ingest, "ranks", "clients")
    assert sorted(set(scaling["label"])) == ["1,024 bytes", "15,000 bytes"]
    np.testing.assert_allclose(scaling["rate"], 1e6 / (10.0 + scaling["x"]))
    np.testing.assert_allclose(scaling["reference_rate"] * 0.9, scaling["rate"])
    np.testing.assert_allclose(scaling["reference_seconds"], scaling["seconds"] * 0.9)


def test_a_file_of_several_benches_is_drawn_one_by_one(folder, tmp_path):
    both = tmp_path / "all.json"
    both.write_text(json.dumps({"bench": "all", "rows": CODEC_ROWS + RANK_ROWS}))
    found = collect.collect([both])
    assert {d.name for d in draw.drawings(found)} == {
        "roofline-all-codec",
        "scaling-all-ingest",
        "sizes-all-ingest",
    }


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not JSON, or cut short"),
        ("{}", "it has no bench and rows"),
        ('{"bench": "p2p", "rows": 3}', "do not form a table"),
        ('{"bench": "p2p", "rows": [{"bytes": 1}]}', "no median_us"),
    ],
)
def test_a_file_that_is_no_bench_result_is_named(folder, tmp_path, content, words):
    bad = tmp_path / "bad.json"
    bad.write_text(content)
    found = collect.collect([bad, folder / "qafel-0.h5"])
    assert len(found.drawn) == 1
    assert str(bad) in found.failures[0]
    assert words in found.failures[0]


def test_names_from_a_file_are_no_mathematics_and_no_escape_codes(tmp_path, capsys):
    """What a label holds may be anything; a lone dollar would else be a syntax error of matplotlib's."""
    from qafel_analysis.figures.convergence import Band

    x = np.linspace(0, 1, 5)
    bands = [Band(name, x, x, x, x, 1) for name in (r"$\frac{", "a$b", "x^2_3")]
    style.save(figures.convergence(bands, "uploads", "accuracy"), tmp_path / "odd")
    style.save(figures.staleness([(b.label, np.ones(3)) for b in bands]), tmp_path / "odd2")
    grid.to_terminal(grid.Grid("", ("a",), (("\x1b[2Jgone\rover",),)))
    assert "\x1b[2J" not in capsys.readouterr().out


def test_forty_points_look_different_and_settings_of_the_same_bits_have_their_whole_names():
    rows = pd.DataFrame({"label": [f"setting {k}" for k in range(40)], "uploads": range(40), "front": True})
    rows["bytes"] = 1e6 * (rows["uploads"] + 1)
    axes = figures.trade_off(rows).axes[0]
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes())
        for c in axes.collections
        if len(c.get_offsets())
    }
    assert len(looks) == 40
    base = {"algorithm": "qafel", "uplink_codec": "qsgd", "downlink_codec": "qsgd", "uplink_bits": 4,
            "downlink_bits": 4, "target": "loss ≤ 1", "driver": "wall", "seed": 0, "uploads_to_target": 5,
            "payload_bytes_up_to_target": 9, "payload_bytes_down_to_target": 9}  # fmt: skip
    runs = [base | {"buffer_size": k, "settings": {"buffer_size": k}} for k in (20, 5)]
    found = points.trade_off(groups(runs))
    assert [label[-6:] for label in found["label"]] == [" K = 5", "K = 20"]
