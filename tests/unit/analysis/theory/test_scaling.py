"""Scaling: efficiency from made-up runs, costs from made-up messages, and the arithmetic on paper."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.tables.grid import NOTHING
from qafel_analysis.theory.loggp import LogGP, broadcast_s
from qafel_analysis.theory.pace import Pace, _latency, above, pace, pace_grid, ratios, settings_of
from qafel_analysis.theory.pace import as_json as pace_json
from qafel_analysis.theory.scaling import Point, StudyError, measured, measured_grid
from qafel_analysis.theory.scaling_paper import Costs, costs, load, on_network, paper_grid, saturates_at
from typer.testing import CliRunner

from qafel_mpi.trace.merge import merge, shards_of, write_run
from qafel_mpi.trace.reader import Clocks, TraceError, open_trace
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import CLOCK, MESSAGES, UPDATES
from tests.unit.analysis.theory.test_loggp import TRUE, bench_file
from tests.unit.trace.made import edited

COSTS = Costs(
    run="wall-32-seed0.h5", ranks=32,
    train_s=1.0, receive_s=100e-6, encode_s=200e-6, post_s=10e-6, up_bytes=1000, down_bytes=1000,
    buffer_size=10, buffer_grows=False,
)  # fmt: skip


def point(ranks: int, seconds: float, uploads: int = 100, driver: str = "wall") -> Point:
    return Point("", "qafel", driver, ranks, max(1, ranks - 1), 10, uploads, seconds)


def test_efficiency_is_one_formula_for_strong_and_weak_scaling():
    strong = [point(2, 10.0), point(4, 4.0), point(1, 20.0, driver="virtual")]
    assert [(s.ranks, round(s.speed_up, 9), round(s.efficiency[0], 3)) for s in measured(strong)] == [
        (1, 1.0, 1.0),
        (2, 1.0, 1.0),
        (4, 2.5, 0.833),
    ]
    weak = [point(2, 10.0), point(4, 12.0, uploads=300)]
    assert [round(s.efficiency[0], 3) for s in measured(weak)] == [1.0, 0.833]


def test_seeds_are_one_size_over_the_median_of_the_smallest():
    seconds = {2: (10.0, 20.0, 12.5), 4: (4.0, 5.0, 2.5)}
    small, large = measured([point(ranks, s) for ranks, runs in seconds.items() for s in runs])
    assert (small.runs, small.rate[0], small.efficiency[0]) == (3, 8.0, 1.0)
    assert small.rate[1:] == pytest.approx((5.0, 10.0)), "of three runs, from the least to the greatest"
    assert (large.rate[0], large.speed_up, large.seconds) == (25.0, 3.125, 4.0)
    assert large.efficiency == pytest.approx((3.125 / 3, 2.5 / 3, 5 / 3))
    rows = measured_grid([small, large]).rows
    assert [row[-1] for row in rows] == ["100% (62 to 125)", "104% (83 to 167)"]


def test_past_saturation_efficiency_falls_as_the_load_grows():
    at = load(COSTS, 101, train_s=1.0, link_gbit=0.004)
    assert (at.first, at.largest, at.efficiency) == ("link out", pytest.approx(2.0), pytest.approx(0.5))
    assert load(COSTS, 11, train_s=1.0, link_gbit=0.004).efficiency == 1.0


def test_a_fitted_network_gives_the_posts_cost_and_the_spread_of_a_broadcast():
    network = LogGP(o=3e-6, g=5e-6, L=1e-6, G=1e-9)
    fitted = on_network(COSTS, network)
    assert (fitted.post_s, fitted.receive_s) == (5e-6, COSTS.receive_s)
    grid = paper_grid(fitted, train_s=1.0, link_gbit=8.0, network=network)
    cells = dict(zip(grid.headings, grid.rows[-1], strict=True))
    assert cells["tree, ms"] == f"{1e3 * broadcast_s(network, 'tree', 10_000, 1000):,.3g}"
    assert "wall-32-seed0.h5" in grid.caption, "whose costs they are"
    assert "fan-out, ms" not in paper_grid(COSTS, train_s=1.0, link_gbit=8.0).headings


def test_loads_on_paper_are_the_formula():
    at = load(COSTS, 101, train_s=1.0, link_gbit=0.008)  # 1 MB/s
    assert at.receiving == pytest.approx(100 * 100e-6)
    assert at.encoding == pytest.approx(10 * 200e-6)
    assert at.posting == pytest.approx(10 * 100 * 10e-6)
    assert at.posting_by_tree == pytest.approx(10 * 7 * 10e-6)  # ⌈log₂ 101⌉
    assert at.link_in == pytest.approx(0.1)
    assert at.link_out == pytest.approx(1.0)
    assert at.first == "link out"
    ranks, what = saturates_at(COSTS, train_s=1.0, link_gbit=1000.0)
    assert what == "rank 0: posting broadcasts"
    assert load(COSTS, ranks, train_s=1.0, link_gbit=1000.0).rank_0 >= 1
    assert load(COSTS, ranks - 1, train_s=1.0, link_gbit=1000.0).rank_0 < 1


def make(folder, ranks: int) -> str:
    """A wall run: an update a second of each client for 10 seconds, 3 broadcasts; known costs on rank 0."""
    out = folder / f"wall-{ranks}.h5"
    recorder = Recorder(shards_of(out), 0)
    for second in range(10):
        for client in range(ranks - 1):
            arrived = second + 1.0 + 1e-6 * client
            begin = second + 1.1 + 300e-6 * client  # 300 µs from one to the next
            update = {
                "client": client,
                "weight": 1.0,
                "train_seconds": 0.9,
                "start_s": second,
                "finish_s": arrived,
            }
            recorder.updates.append(row(UPDATES, update))
            times = {"t_complete": arrived, "t_decode_begin": begin, "t_decode_end": begin + 50e-6}
            recorder.messages.append(
                row(MESSAGES, {"end": 1, "kind": 3, "src": client + 1, "dst": 0} | times)
            )
    for version in range(3):
        for client in range(ranks - 1):
            posted = version + 0.01 + 2e-5 * client
            times = {"t_encode_begin": version, "t_encode_end": version + 1e-3, "t_post": posted}
            key = {"end": 0, "kind": 1, "src": 0, "dst": client + 1, "version": version}
            recorder.messages.append(row(MESSAGES, key | times))
    recorder.close()
    attributes = {
        "experiment": "[stop]\nuploads = 1\n", "algorithm": "qafel", "driver": "wall", "ranks": ranks,
        "outcome": "finished",
        "buffer_size": 10, "payload_bytes_per_upload": 936, "payload_bytes_per_broadcast": 936, "seconds": 99.0,
    }  # fmt: skip
    write_run(shards_of(out), attributes)
    merge(shards_of(out), out)
    return str(out)


def row(dtype: np.dtype, values: dict) -> tuple:
    return tuple((dict.fromkeys(dtype.names or (), 0) | values)[name] for name in dtype.names or ())


def test_costs_come_from_rank_0s_messages(tmp_path):
    found = costs(Path(make(tmp_path, 9)), buffer_grows=False)
    assert found.receive_s == pytest.approx(300e-6, rel=0.01)
    assert found.encode_s == pytest.approx(1e-3)
    assert found.post_s == pytest.approx(2e-5, rel=0.01)
    assert found.train_s == pytest.approx(0.9)
    assert found.up_bytes == 1000


def test_the_command_prints_both_tables(tmp_path):
    runs = [make(tmp_path, 3), make(tmp_path, 9)]
    call = "import sys; from qafel_analysis.commands.app import main; sys.argv[0] = 'qafel-analysis'; main()"
    command = [sys.executable, "-c", call, "scaling", *runs]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert [run["efficiency"] for run in found["measured"]] == pytest.approx([1.0, 1.0], rel=1e-3)
    assert found["paper"]["saturates"]["what"].startswith("rank 0")
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "10,000" in text
    assert "On paper, not measured" in text


def test_a_run_that_was_cut_short_before_its_first_broadcast_is_said_beside_the_other_table(tmp_path):
    short = tmp_path / "short.h5"
    recorder = Recorder(shards_of(short), 0)
    recorder.updates.append(row(UPDATES, {"client": 1, "weight": 1.0, "finish_s": 1.0}))
    recorder.close()
    attributes = {
        "experiment": "[stop]\nuploads = 1\n", "algorithm": "qafel", "driver": "wall", "ranks": 9,
        "outcome": "interrupted", "buffer_size": 10, "seconds": 1.0,
    }  # fmt: skip
    write_run(shards_of(short), attributes)
    merge(shards_of(short), short)
    call = "import sys; from qafel_analysis.commands.app import main; sys.argv[0] = 'qafel-analysis'; main()"
    command = [sys.executable, "-c", call, "scaling", make(tmp_path, 3), str(short)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    assert "short.h5: no uploads and broadcasts of rank 0" in done.stderr
    assert "fficiency" in done.stdout


def test_pace_is_fedbuffs_seconds_over_the_others_seed_by_seed():
    def run(algorithm: str, seed: int, seconds: float, codecs: str = "float32 up, float32 down") -> Pace:
        return Pace(algorithm, codecs, seed, seconds, 10 * seconds, 10, 100, 0.1, 0.1, 0.1, 0.0, 0.1, 0.1)

    paces = [run("qafel", 0, 1.0), run("qafel", 1, 2.0), run("fedbuff", 0, 4.0), run("fedbuff", 1, 6.0)]
    settings = settings_of(paces)
    assert ratios(settings, "per_step")["qafel"] == pytest.approx((3.5, 3.0, 4.0))
    grid = pace_grid(settings)
    assert grid.headings == ("", "qafel", "fedbuff", "fedbuff / qafel")
    assert ("seconds to the target", "15 (10 to 20)", "50 (40 to 60)", "3.5 (3 to 4)") in grid.rows
    eden = [run("qafel", seed, 0.5, "eden 1 bits up, eden 1 bits down") for seed in (0, 1)]
    for one in eden:
        one.settings["uplink.bits"] = 1
    both = ratios(settings_of([*eden, *paces]), "per_step")
    assert both["qafel, eden 1 bits up, eden 1 bits down"] == pytest.approx((10, 8, 12))
    assert both["qafel, float32 up, float32 down"] == pytest.approx((3.5, 3.0, 4.0))


@pytest.mark.parametrize(("bound_s", "told"), [(1e-6, "0.001"), (2e-3, NOTHING)])
def test_upload_latency_is_left_out_where_the_clocks_errors_exceed_it(bound_s, told):
    """1 ms by clocks that are right to 1 µs, and to 2 ms."""
    clock = np.zeros(1, dtype=CLOCK)
    clock["rank"], clock["error_bound_s"] = 1, bound_s
    sent = np.zeros(3, dtype=MESSAGES)
    sent["src"], sent["sequence"], sent["t_post"] = 1, [0, 1, 2], [0.0, 1.0, 2.0]
    received = sent[[2, 0, 1]].copy()
    received["t_complete"] = received["t_post"] + 1e-3
    upload, error = _latency(sent, received, Clocks(clock, 0.0))
    assert error >= bound_s
    assert upload == pytest.approx(1e-3)
    shown = Pace("qafel", "", 0, 1.0, 1.0, 1, 1, 0.1, 0.1, above(upload, error), error, 0.1, 0.1)
    assert ("upload latency, queueing included, s", told) in pace_grid(settings_of([shown])).rows


def test_a_runs_pace_is_read_from_its_trace(tmp_path):
    with open_trace(make(tmp_path, 3)) as trace, pytest.raises(TraceError, match="no server steps"):
        pace(trace)


def of(setting: dict, seed: int, seconds: float, algorithm: str = "qafel") -> Pace:
    return Pace(
        algorithm, "", seed, seconds, 10 * seconds, 10, 100, 0.1, 0.1, 0.1, 0.0, 0.1, 0.1, settings=setting
    )


def test_settings_of_one_algorithm_have_a_column_each_and_a_baseline_of_their_own():
    near, far = ({"task.dataset": "a", "stop.loss": aim} for aim in (1.0, 0.5))
    paces = [of(near | {"uplink.bits": 4}, 0, 1.0), of(near | {"uplink.bits": 1}, 0, 2.0)]
    paces += [of(far | {"uplink.bits": 4}, 0, 1.0), of(near, 0, 4.0, "fedbuff"), of(far, 0, 12.0, "fedbuff")]
    settings = settings_of(paces)
    found = {name: values[0] for name, values in ratios(settings, "per_step").items()}
    assert found == {
        "qafel, stop.loss = 1.0, uplink.bits = 4": 4,
        "qafel, stop.loss = 1.0, uplink.bits = 1": 2,
        "qafel, stop.loss = 0.5, uplink.bits = 4": 12,
    }
    assert [s.name for s in settings[3:]] == ["fedbuff, stop.loss = 0.5", "fedbuff, stop.loss = 1.0"]
    assert {row["setting"] for row in pace_json(settings)["runs"]} == {s.name for s in settings}


def test_every_run_of_a_seed_counts_in_a_ratio():
    base = [of({}, 0, seconds, "fedbuff") for seconds in (2.0, 4.0, 9.0)]
    assert ratios(settings_of([of({}, 0, 1.0), *base]), "per_step")["qafel"][0] == 4


def test_two_studies_of_one_algorithm_have_a_base_each():
    def run(ranks: int, seconds: float, **settings: object) -> Point:
        return replace(point(ranks, seconds), settings={"ranks": ranks, **settings})

    bits = [run(2, 10.0, bits=4), run(4, 5.0, bits=4), run(2, 40.0, bits=1), run(4, 10.0, bits=1)]
    found = measured(bits)
    assert [(s.study, s.ranks, s.runs, s.speed_up) for s in found] == [
        ("qafel, bits = 4", 2, 1, 1.0),
        ("qafel, bits = 4", 4, 1, 2.0),
        ("qafel, bits = 1", 2, 1, 1.0),
        ("qafel, bits = 1", 4, 1, 4.0),
    ]
    grown = {ranks: {"server.buffer_size": ranks - 1, "stop.uploads": 40 * ranks} for ranks in (2, 4)}
    weak = [run(ranks, 1.0, **settings) for ranks, settings in grown.items()]
    assert [s.study for s in measured(weak)] == ["qafel", "qafel"], "K may grow with the ranks"
    strong = [run(2, 1.0, **{"server.buffer_size": 10, "stop.uploads": 40 * 2})]
    with pytest.raises(
        StudyError, match=r"two settings of 2 ranks, server\.buffer_size = 1 and server\.buffer_size = 10"
    ):
        measured(weak + strong)


@pytest.mark.parametrize(
    ("without", "words"), [("seconds", "does not say how long it took"), ("ranks", "KeyError: 'ranks'")]
)
def test_a_run_that_lacks_what_its_end_writes_does_not_spoil_the_others(tmp_path, without, words):
    good, bad = make(tmp_path, 3), make(tmp_path, 5)
    with edited(Path(bad)) as file:
        file.attrs["driver"] = "virtual"
        del file.attrs[without]
    done = CliRunner().invoke(app, ["scaling", bad, good, "--json"])
    assert done.exit_code == 0, done.output
    assert [size["ranks"] for size in json.loads(done.stdout)["measured"]] == [3]
    assert f"{bad}: " in done.stderr
    assert words in done.stderr
    for command in ("scaling", "pace", "theory"):
        assert CliRunner().invoke(app, [command, bad]).exit_code == 2


def test_two_studies_at_once_are_refused_in_words(tmp_path):
    runs = [make(tmp_path, 3), make(tmp_path / "other", 3)]
    with edited(Path(runs[1])) as file:
        file.attrs["experiment"] = "[stop]\nuploads = 2\n"
    done = CliRunner().invoke(app, ["scaling", *runs])
    assert done.exit_code == 2
    assert "qafel: two settings of 3 ranks, stop.uploads = 1 and stop.uploads = 2" in done.stderr


def test_the_command_takes_the_networks_costs_from_benchmarks(tmp_path):
    trace, benches = make(tmp_path, 9), str(bench_file(tmp_path))
    scaled = CliRunner().invoke(app, ["scaling", trace, "--bench", benches, "--json"])
    assert scaled.exit_code == 0, scaled.output
    paper = json.loads(scaled.stdout)["paper"]
    assert paper["costs"]["post_s"] == pytest.approx(max(TRUE.o, TRUE.g), rel=0.1)
    assert paper["link_gbit"] == pytest.approx(8e-9 / TRUE.G, rel=0.1)
    assert paper["loads"][-1]["tree_s"] > 0
