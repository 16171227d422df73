"""Tables from trace files: the contract of --json, ratios, and files that can't be read."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.figures import convergence
from qafel_analysis.read import rows as table
from qafel_analysis.tables import compare
from qafel_analysis.tables.sentence import sentence
from typer.testing import CliRunner

from qafel_mpi.trace.merge import merge, shards_of, write_final, write_run
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import FAULT_NUMBERS, FAULTS, MEMORY, STEPS, UPDATES
from tests.unit.trace.made import edited

# The keys that DESIGN fixes; others may follow.
CONTRACT = [
    "run",
    "algorithm",
    "seed",
    "uplink_codec",
    "uplink_bits",
    "downlink_codec",
    "downlink_bits",
    "buffer_size",
    "ranks",
    "clients",
    "parameters",
    "uploads",
    "server_steps",
    "uploads_to_target",
    "accuracy",
    "loss",
    "payload_bytes_up",
    "payload_bytes_down",
    "wire_bytes_up",
    "wire_bytes_down",
    "paper_bytes_per_upload",
    "paper_bytes_per_broadcast",
    "seconds",
    "virtual_seconds",
    "x_digest",
    "outcome",
]
EXPERIMENT = "[stop]\naccuracy = 0.9\n"


def make(
    folder,
    name,
    *,
    algorithm="qafel",
    seed=0,
    uploads=100,
    reached=100,
    size=50,
    finished=True,
    aim=EXPERIMENT,
    outcome="",
    about=None,
):
    """A run of `uploads` updates in steps of 10; the target is reached after `reached` of them (None: never).

    aim: the experiment; without a target "reached" says where accuracy is high. outcome: in place of its own.
    about: more attributes.
    """
    out = folder / f"{name}.h5"
    recorder = Recorder(shards_of(out), 0)
    for k in range(uploads):
        values = dict.fromkeys(UPDATES.names, 0) | {"client": k, "staleness": k % 3, "payload_bytes": size}
        recorder.updates.append(tuple(values[n] for n in UPDATES.names))
    for version in range(uploads // 10 + 1):
        accuracy = 0.95 if reached is not None and 10 * version >= reached else 0.5
        values = dict.fromkeys(STEPS.names, 0.0) | {
            "version": version,
            "uploads": 10 * version,
            "time_s": 0.1 * version,
            "accuracy": accuracy,
            "payload_bytes_up": 10 * version * size,
            "payload_bytes_down": version * size,
            "messages_down": version,
        }
        recorder.steps.append(tuple(values[n] for n in STEPS.names))
    recorder.close()
    attributes = {
        "experiment": aim,
        "algorithm": algorithm,
        "seed": seed,
        "uplink_codec": "identity" if algorithm == "fedbuff" else "qsgd",
        "uplink_bits": 32 if algorithm == "fedbuff" else 4,
        "downlink_codec": "identity" if algorithm == "fedbuff" else "qsgd",
        "downlink_bits": 32 if algorithm == "fedbuff" else 4,
        "buffer_size": 10,
        "ranks": 4,
        "clients": 3,
        "parameters": 100,
        "paper_bytes_per_upload": float(size),
        "paper_bytes_per_broadcast": float(size),
    }
    if finished:
        attributes |= {
            "outcome": outcome or ("target reached" if reached is not None and aim else "finished"),
            "uploads": uploads,
            "server_steps": uploads // 10,
            "uploads_to_target": reached if reached is not None and aim else -1,
            "accuracy": 0.95,
            "loss": float("nan"),
            "payload_bytes_up": uploads * size,
            "payload_bytes_down": uploads // 10 * size,
            "wire_bytes_up": uploads * (size + 64),
            "wire_bytes_down": uploads // 10 * (size + 64),
            "down_links": uploads // 10 * size * 3,
            "seconds": 1.0,
            "virtual_seconds": 0.0,
        }
        write_final(shards_of(out), x=np.arange(3.0), x_hat=np.arange(3.0))
    write_run(shards_of(out), attributes | (about or {}))
    merge(shards_of(out))
    return out


def analysis(*arguments) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-c",
        "from qafel_analysis.commands.app import main; main()",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_json_has_the_keys_of_the_contract_and_no_nan(tmp_path):
    done = analysis("table", make(tmp_path, "a"), make(tmp_path, "b", reached=None), "--json")
    assert done.returncode == 0
    runs = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [set(CONTRACT) - set(run) for run in runs] == [set(), set()]
    assert runs[0]["uploads_to_target"] == 100
    assert runs[1]["uploads_to_target"] is None
    assert runs[0]["loss"] is None
    assert len(runs[0]["x_digest"]) == 64


def test_the_memory_of_rank_0_and_its_growth_after_the_start(tmp_path):
    path = make(tmp_path, "a")
    resident = [100, 180, 200, 200, 201, 200, 230, 240, 230]
    with edited(path) as file:
        del file["memory"]
        file["memory"] = np.array(list(enumerate(resident)), dtype=MEMORY)
    row = table.row(path)
    assert row["rank_0_memory_bytes"] == 240
    assert row["rank_0_memory_growth_bytes"] == 30
    with edited(path) as file:
        del file["memory"]  # a trace of before there was such a table
    assert table.row(path)["rank_0_memory_bytes"] is None


def test_faults_are_counted_by_kind_and_shown_only_where_there_are_any(tmp_path):
    path, other = make(tmp_path, "a"), make(tmp_path, "b")
    with edited(path) as file:
        del file["faults"]
        rows = np.zeros(3, dtype=FAULTS)
        rows["kind"] = [FAULT_NUMBERS[name] for name in ("rank died", "message dropped", "rank died")]
        rows["client"] = -1
        file["faults"] = rows
    with edited(other) as file:
        del file["faults"]  # a trace of before there was such a table
    found = table.row(path)
    assert (found["faults"], found["fault_counts"]) == (3, {"rank died": 2, "message dropped": 1})
    assert (table.row(other)["faults"], table.row(other)["fault_counts"]) == (None, {})
    shown = analysis("table", path, other).stdout
    assert "rank died" in shown
    assert "Faults" not in analysis("table", other).stdout


def test_rejected_updates_are_counted_by_client_with_the_most_first(tmp_path):
    path = make(tmp_path, "a")
    with edited(path) as file:
        del file["faults"]
        rows = np.zeros(14, dtype=FAULTS)
        rows["kind"] = FAULT_NUMBERS["update rejected"]
        rows["client"] = [5, 7, 5, 7, 7, *range(10, 19)]
        file["faults"] = rows
    clients = table.row(path)["fault_clients"]["update rejected"]
    assert list(clients.items())[:3] == [(7, 3), (5, 2), (10, 1)]
    shown = analysis("table", path).stdout
    assert "7 (3), 5 (2), 10 (1), 11 (1), 12 (1), 13 (1), 14 (1), 15 (1), and 3 more" in " ".join(
        shown.split()
    )


def test_csv_has_a_row_a_run(tmp_path):
    done = analysis("table", make(tmp_path, "a"), make(tmp_path, "b"), "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["uploads"] for row in rows] == ["100", "100"]


def test_the_terminal_shows_that_a_target_was_never_reached(tmp_path):
    done = analysis("table", make(tmp_path, "a", reached=None))
    assert "never" in done.stdout
    assert done.returncode == 0


def test_a_run_that_was_killed_is_tabled_from_its_rows(tmp_path):
    row = table.row(make(tmp_path, "a", finished=False, reached=60))
    assert (row["uploads"], row["server_steps"], row["uploads_to_target"]) == (100, 10, 60)
    assert row["payload_bytes_up"] == 5000
    assert row["accuracy"] == 0.95
    assert row["mean_staleness"] == pytest.approx(0.99)
    assert row["outcome"].startswith("failed")
    assert row["x_digest"] is None


def test_one_bad_file_does_not_spoil_the_rest(tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_bytes(b"nonsense")
    done = analysis("table", bad, make(tmp_path, "a"), "--json")
    assert done.returncode == 0
    assert "bad.h5: not an HDF5 file" in done.stderr
    assert len(json.loads(done.stdout)) == 1
    assert analysis("table", bad).returncode == 2
    assert analysis("tabel").returncode == 2


def test_savings_are_baseline_over_setting_and_never_reached_runs_enter_no_mean(tmp_path):
    runs = [table.row(make(tmp_path, f"q{seed}", seed=seed, reached=100 + 10 * seed)) for seed in (0, 1)]
    runs.append(table.row(make(tmp_path, "never", seed=2, reached=None)))
    runs += [
        table.row(make(tmp_path, f"f{seed}", algorithm="fedbuff", seed=seed, size=400, reached=100))
        for seed in (0, 1)
    ]
    ours, baseline = compare.groups(runs)
    assert (len(ours.runs), len(ours.reached)) == (3, 2)
    assert ours.mean("uploads_to_target") == 105
    saving = compare.saving(ours, baseline, "payload_bytes_up")
    assert saving is not None
    assert saving == pytest.approx((8, 8, 8)), "seeds 0 and 1; FedBuff has no seed 2"
    done = analysis("compare", *(run["run"] for run in runs), "--json")
    found = json.loads(done.stdout)
    of_fedbuff = found[0]["fedbuff_over_this"]["payload_bytes_up"]
    assert list(of_fedbuff.values()) == pytest.approx(list(saving))
    assert found[0]["arrived"] == [True, True, False]
    assert found[0]["values"]["uploads"] == [100, 110, 100], "the last took at least that"
    assert found[0]["mean"]["uploads"] == 105
    assert "2 of 3" in analysis("compare", *(run["run"] for run in runs)).stdout


def test_a_terminal_shows_few_settings_as_columns_and_of_more_a_row_each(tmp_path):
    runs = [make(tmp_path, f"k{k}", about={"buffer_size": k}) for k in range(1, 6)]
    labels = [group.label for group in compare.groups([table.row(run) for run in runs])]
    assert len(set(labels)) == 5

    def rows_of(*arguments) -> set[str]:
        return {line.split("  ")[0].strip() for line in analysis("compare", *arguments).stdout.splitlines()}

    assert "server steps" in rows_of(*runs[:4])
    assert not set(labels) & rows_of(*runs[:4])
    assert set(labels) <= rows_of(*runs)
    assert "server steps" not in rows_of(*runs)
    assert "| server steps |" in analysis("compare", *runs, "--markdown").stdout


def test_a_single_run_has_no_interval(tmp_path):
    runs = [table.row(make(tmp_path, "q")), table.row(make(tmp_path, "f", algorithm="fedbuff", size=400))]
    ours, baseline = compare.groups(runs)
    saving = compare.saving(ours, baseline, "payload_bytes_up")
    assert saving is not None
    assert saving.value == pytest.approx(8)
    assert not saving.known
    done = analysis("compare", *(run["run"] for run in runs), "--json")
    assert json.loads(done.stdout)[0]["fedbuff_over_this"]["payload_bytes_up"]["low"] is None


def costs(by_seed: dict[int, float | None], *, spent: float = 900.0) -> compare.Group:
    """Runs with these uploads to the target; None: `spent` uploads, and no target."""
    runs = (
        {"target": "loss", "uploads_to_target": v, "uploads": spent, "seed": seed}
        for seed, v in by_seed.items()
    )
    return compare.Group("setting", tuple(runs))


def test_two_runs_of_one_seed_are_a_pair():
    baseline = costs({0: 100, 1: 300, 2: 500})
    half = compare.saving(costs({2: 250, 0: 50, 1: 150}), baseline, "uploads")
    assert half == pytest.approx((2, 2, 2)), "each seed needs half of what the baseline needs"
    fewer = compare.saving(costs({2: 250, 0: 50}), baseline, "uploads")
    assert fewer == pytest.approx((2, 2, 2)), "with the baseline's runs of these seeds alone"
    alone = compare.saving(costs({2: 250}), baseline, "uploads")
    assert alone is not None
    assert alone.value == pytest.approx(2)
    assert not alone.known
    apart = compare.saving(costs({4: 250, 5: 50, 3: 150}), baseline, "uploads")
    assert apart is not None
    assert apart.low < 1 < 3 < apart.high


def test_a_run_that_missed_its_target_bounds_the_ratio():
    baseline = costs({0: 100, 1: 100, 2: 100})
    found = compare.saving(costs({0: 400, 1: 410, 2: None}), baseline, "uploads")
    assert found is not None
    assert found.value == pytest.approx((1 / (4 * 4.1 * 9)) ** (1 / 3))
    assert found.low == 0, "it may have needed any number"
    assert found.high < 1, "but no fewer than the 900 that it had"
    turned = compare.saving(baseline, costs({0: 400, 1: 410, 2: None}), "uploads")
    assert turned == pytest.approx(found.inverse)
    both = compare.saving(costs({0: 400, 1: None}), costs({0: None, 1: 500}), "uploads")
    assert both is None, "nothing is known"


def test_without_a_target_only_runs_that_came_to_their_end_count(tmp_path):
    whole = [make(tmp_path, f"q{seed}", seed=seed, aim="") for seed in (0, 1)]
    whole += [
        make(tmp_path, f"f{seed}", seed=seed, aim="", algorithm="fedbuff", size=200) for seed in (0, 1, 2)
    ]
    outcomes = ("interrupted", "failed: the model's loss is not finite")
    cut = [
        make(tmp_path, f"cut{s}", seed=s, aim="", uploads=10, outcome=o)
        for s, o in zip((2, 3), outcomes, strict=True)
    ]
    cut.append(make(tmp_path, "killed", seed=4, aim="", uploads=10, finished=False))
    ours, baseline = compare.groups([table.row(path) for path in (*whole, *cut)])
    assert (len(ours.runs), len(ours.reached), len(baseline.reached)) == (5, 2, 3)
    assert ours.mean("uploads") == ours.mean("accuracy") * 100 / 0.95 == 100
    assert compare.saving(ours, baseline, "payload_bytes_up") == pytest.approx((4, 4, 4))
    done = CliRunner().invoke(app, ["compare", *map(str, (*whole, *cut)), "--sentence"])
    assert "QAFeL needed 25% of the upload bytes" in done.stdout
    assert "(2 of 5 and 3 of 3 runs came to their end)" in done.stdout
    for path in cut:
        assert any(str(path) in line and "no whole run" in line for line in done.stderr.splitlines())
    found = compare.summary(ours, [ours, baseline])
    assert (found["reached"], found["arrived"]) == (2, [True, True, False, False, False])
    assert found["values"]["payload_bytes_up"] == [5000, 5000, None, None, None]
    alone = compare.groups([table.row(cut[0]), table.row(whole[2])])
    assert sentence(alone) == "Over whole runs on None, no run of QAFeL came to its end."


def test_a_run_that_was_cut_short_counts_where_it_has_a_target(tmp_path):
    """It took at least that, so it bounds a ratio as one that missed the target does."""
    run = table.row(make(tmp_path, "cut", reached=None, uploads=20, outcome="interrupted"))
    (group,) = compare.groups([run])
    assert group.costs("uploads") == [(0, 20.0, False)]


def test_a_curve_ends_where_its_run_was_cut_short(tmp_path):
    paths = [make(tmp_path, "a", aim=""), make(tmp_path, "b", aim="", seed=1)]
    paths.append(make(tmp_path, "c", aim="", seed=2, uploads=20, reached=20, outcome="interrupted"))
    (group,) = compare.groups([table.row(path) for path in paths])
    at = convergence.values_at(group, "uploads", "accuracy", [20, 90, 100, 200])
    assert at["values"] == [[0.5, 0.5, 0.95, 0.95], [0.5, 0.5, 0.95, 0.95], [0.95, None, None, None]]
    curve = convergence.as_json(group, "uploads", "accuracy")
    assert (curve["x"][-1], curve["low"][-1]) == (100, 0.95)
    assert max(high for x, high in zip(curve["x"], curve["high"], strict=True) if 20 < x < 90) == 0.5


def test_a_cost_of_nothing_has_no_ratio():
    assert compare.saving(costs({0: 0, 1: 5}), costs({0: 5, 1: 5}), "uploads") is None
    assert compare.saving(costs({0: 5, 1: 5}), costs({0: 0, 1: 5}), "uploads") is None
