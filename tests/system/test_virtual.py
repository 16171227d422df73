"""The virtual clock as a user meets it: the paper's experiment, every suite in short, its benchmark."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import h5py
import pytest

from qafel_mpi import experiments
from qafel_mpi.config import load, variants_of
from qafel_mpi.config_text import ConfigError
from qafel_mpi.drivers import suite
from qafel_mpi.drivers.build import RunSummary
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.tasks.errors import DataError
from tests.system.command import qafel

# --- the paper's logistic regression ------------------------------------------------------------------

MINIMUM = 0.014484174216922262  # f* of mushrooms with λ = 1/n
# The authors' own code, seed 0: f(x) − f* after so many server steps.
AUTHORS = {
    "qafel": {100: 6.53e-2, 500: 2.14e-2, 1000: 8.60e-3, 2000: 3.21e-3},
    "naive": {100: 6.21e-2, 500: 1.95e-2, 1000: 8.00e-3, 2000: 4.32e-3},
    "fedbuff": {100: 6.55e-2, 500: 2.18e-2, 1000: 8.58e-3, 2000: 3.01e-3},
}
# Seeds 0 to 4 of ours lie within 8% of each other's mean (naive at 2,000: 28%), at any of these steps.
SPREAD = {"qafel": 0.15, "naive": 0.35, "fedbuff": 0.15}


@pytest.fixture(scope="module")
def curves(tmp_path_factory) -> dict[str, dict[int, float]]:
    """f(x) − f* by variant and server step, over 2,000 of the paper's 10,000 steps."""
    data = Path(os.environ.get("QAFEL_DATA_DIR", Path.home() / ".cache/qafel_mpi"))
    if not (data / "mushrooms.libsvm").exists():
        pytest.skip("needs mushrooms.libsvm in QAFEL_DATA_DIR")
    found = {}
    for name in AUTHORS:
        out = tmp_path_factory.mktemp("paper") / "run.h5"
        virtual.run(load("mushrooms-qsgd", ["stop.steps=2000"], name), None, out, data_dir=data)
        with h5py.File(out) as file:
            steps = file["steps"][:]
        found[name] = dict(zip(steps["version"].tolist(), (steps["loss"] - MINIMUM).tolist(), strict=True))
    return found


@pytest.mark.parametrize("name", AUTHORS)
def test_the_papers_logistic_regression_runs_as_the_authors_did(curves, name):
    for step, published in AUTHORS[name].items():
        assert curves[name][step] == pytest.approx(published, rel=SPREAD[name]), step


def test_qafel_ends_with_fedbuff_and_below_naive(curves):
    last = {name: curve[2000] for name, curve in curves.items()}
    assert last["qafel"] == pytest.approx(last["fedbuff"], rel=0.1)
    assert last["qafel"] < 0.95 * last["naive"]


# --- suites ---------------------------------------------------------------------------------------------

SUITES = [name for name in experiments.names() if variants_of(name) and load(name).clock.kind == "virtual"]


def drive(run: suite.SuiteRun, comm: None) -> RunSummary:
    return virtual.run(suite.from_toml(run.experiment), comm, Path(run.out))


def made(name: str) -> list[str]:
    """One server step on made data, one example a client; of text, on the first that there is."""
    task = load(name).task
    short = ["evaluation.examples=20", "stop.steps=1"]
    if task.model == "transformer":
        return [
            *short,
            "client.local_steps=1",
            "task.depth=1",
            "task.width=8",
            "task.heads=1",
            "task.context=8",
        ]
    # As many as train at a time in the experiments of concurrency.
    clients = 1100 if task.model == "cnn" or name.endswith("-concurrency") else 100
    shape = ["client.local_steps=1"] if task.model == "cnn" else ["task.shape=[6]"]
    classes = [] if task.model == "cnn" and task.classes else ["task.classes=2"]
    sizes = [f"task.clients={clients}", f"task.examples={clients}"]
    return ["task.dataset=synthetic", *sizes, *shape, *classes, "task.partition={kind='iid'}", *short]


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_runs_all_its_variants_in_short_and_goes_on_where_it_stopped(name, tmp_path):
    said: list[str] = []
    started = 0

    def stops_once(run: suite.SuiteRun, comm: None) -> RunSummary:
        nonlocal started
        started += 1
        if started == 2:
            return RunSummary(outcome="interrupted", interrupted=True)
        return drive(run, comm)

    def go(drive: suite.Drive) -> suite.SuiteResult:
        return suite.run_suite(name, [0], tmp_path, made(name), None, drive=drive, say=said.append)

    first = go(stops_once)
    assert first.interrupted
    assert sum(run.done for run in first.runs) == 1
    assert "1 left" in said[-1] or "left: about" in said[-1]
    rest = go(drive)
    assert not rest.failed
    assert [run.variant for run in rest.runs] == list(variants_of(name))
    assert all(run.done for run in rest.runs)
    assert len(list(tmp_path.glob("*-seed0.h5"))) == len(variants_of(name))
    assert started == 2


def test_one_failing_run_does_not_end_a_suite_and_the_estimate_leaves_it_out(tmp_path):
    """The second of three fails once; the next call runs it alone."""
    said: list[str] = []

    def fails_once(run: suite.SuiteRun, comm: None) -> RunSummary:
        if run.variant == "naive":
            raise RuntimeError("a broken disk")
        return drive(run, comm)

    def go(drive: suite.Drive) -> suite.SuiteResult:
        settings = made("mushrooms-qsgd")
        return suite.run_suite("mushrooms-qsgd", [0], tmp_path, settings, None, drive=drive, say=said.append)

    first = go(fails_once)
    assert [run.outcome for run in first.failed] == ["failed: a broken disk"]
    assert [run.done for run in first.runs] == [True, False, True]
    ended = "naive, seed 0: failed: a broken disk, 0 uploads; 1 of 3 done, 1 failed, 1 left: about "
    assert re.fullmatch(re.escape(ended) + r"\d+ s", said[-2])
    assert said[-1].endswith("2 of 3 done, 1 failed, 0 left")
    said.clear()
    assert all(run.done for run in go(drive).runs)
    assert [line.split(":")[0] for line in said] == ["mushrooms-qsgd", "naive, seed 0"]


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iid", "contiguous", "{kind='dirichlet', alpha=0.5}", "{kind='shards'}"])
def test_a_partition_that_leaves_clients_without_data_is_refused(kind, tmp_path):
    table = kind if kind.startswith("{") else f"{{kind='{kind}'}}"
    settings = ["clock.kind=virtual", "task.clients=2000", f"task.partition={table}"]
    with pytest.raises(DataError, match=r"2000 clients and 1437 .*; set task.clients to 1437 at most"):
        virtual.run(load("digits", settings), None, tmp_path / "x.h5")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (["clock.concurrency=101"], "more than there are clients"),
        (["clock.rate=0"], "0 is not allowed"),
        (["clock.duration.scale=0"], "0 is not allowed"),
        (["clock.dropout=1"], "1 is not allowed"),
        (["algorithm=fedavg", "server.buffer_size=30", "clock.concurrency=20"], "it would wait for ever"),
        (["stop.virtual_seconds=0"], "0 is not allowed"),
    ],
)
def test_what_can_not_run_is_refused_before_the_start_with_the_reason(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        load("digits", ["clock.kind=virtual", *settings])


# --- the benchmark ------------------------------------------------------------------------------------------


def test_the_benchmark_finds_memory_that_grows_by_tens_of_bytes_a_client(tmp_path):
    """Data, partition and schedule of 400,000 clients with two features each; not a model each."""
    counts = ("--clients", "10000", "--clients", "400000")
    only = ("--only", "memory", "--json", "b.json")
    done = qafel("bench", "virtual", *counts, *only, ranks=2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())["rows"]
    assert [row["clients"] for row in rows] == [10_000, 400_000]
    for who in ("rank_0", "worker"):
        assert 0 < rows[1][f"{who}_bytes_a_client"] < 100
