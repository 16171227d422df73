"""--record: small files that say where their numbers come from, of every command that has them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.commands.record import of_runs
from qafel_analysis.example import Example, write
from qafel_analysis.figures import convergence
from qafel_analysis.figures.collect import collect
from qafel_analysis.read.frames import load
from typer.testing import CliRunner

from qafel_mpi.bench.measuring.result import Result, Row
from qafel_mpi.bench.measuring.timing import Samples
from tests.unit.trace.made import edited


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    return [
        write(folder / f"{algorithm}-{seed}.h5", Example(messages=600, algorithm=algorithm, seed=seed))
        for algorithm in ("qafel", "fedbuff")
        for seed in (0, 1)
    ]


def recorded(monkeypatch, out: Path, *words: object) -> dict[str, Any]:
    command = [*map(str, words), "--record", str(out)]
    monkeypatch.setattr(sys, "argv", ["/opt/bin/qafel-analysis", *command])
    done = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    return json.loads(out.read_text(encoding="utf-8"))


def printed(*words: object) -> Any:
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "words",
    [
        ["compare"],
        ["table", "--messages"],
        ["curves", "--x", "uploads"],
        ["curves", "--y", "loss", "--x", "server_steps", "--at", "3,10"],
        ["scaling"],
        ["pace"],
    ],
    ids=" ".join,
)
def test_a_record_is_what_the_command_prints_as_json_with_command_date_and_machine(
    runs, tmp_path, monkeypatch, words
):
    command = [words[0], *runs, *words[1:]]
    found = recorded(monkeypatch, tmp_path / "x.json", *command)
    assert found["content"] == printed(*command)
    assert found["kind"] == (words[0] if "--messages" not in words else "messages")
    assert found["written"].startswith("20")
    assert found["command"].startswith(f"qafel-analysis {words[0]} ")
    made = found["sources"]
    assert sum(one["files"] for one in made) == len(runs)
    assert all({"command", "started", "commit", "machine", "versions"} <= one.keys() for one in made)


def test_a_record_of_the_table_has_a_row_a_run(runs, tmp_path, monkeypatch):
    found = recorded(monkeypatch, tmp_path / "x.json", "table", *runs)
    assert [row["seed"] for row in found["content"]] == [0, 1, 0, 1]
    assert {row["algorithm"] for row in found["content"]} == {"qafel", "fedbuff"}


def test_a_record_of_a_timeline_has_every_span_of_its_window(runs, tmp_path, monkeypatch):
    found = recorded(
        monkeypatch, tmp_path / "x.json", "timeline", runs[0], "--window", "0.1:0.2", "--note", "a remark"
    )
    content = found["content"]
    assert (content["begin_s"], content["end_s"], found["note"]) == (0.1, 0.2, "a remark")
    assert {"train", "encode", "decode", "send", "wait"} == {what for _, what, _, _ in content["spans"]}
    assert all(begin <= 0.2 and end >= 0.1 for _, _, begin, end in content["spans"])
    for one in content["shares"]:
        assert sum(one[name] for name in ("train", "encode", "decode", "wait")) == pytest.approx(1, abs=0.02)


def test_a_record_of_benchmarks_has_a_number_a_launch_and_no_samples(tmp_path, monkeypatch):
    about = {
        "command_line": "/x/bin/qafel-mpi bench p2p",
        "ranks": [{"host": "a", "cores": "0-1"}],
        "cpu": "Z80",
    }
    for number, seconds in enumerate((1e-6, 3e-6)):
        samples = Samples(np.full(20, seconds), np.zeros(2))
        row = Row("p2p", {"operation": "latency", "bytes": 8}, samples, wrong=0)
        Result("p2p", [row], about).write_json(tmp_path / f"{number}.json")
    found = recorded(monkeypatch, tmp_path / "record.json", "bench", tmp_path / "0.json", tmp_path / "1.json")
    (row,) = found["content"]
    assert [launch["median_us"] for launch in row["launches"]] == pytest.approx([1.0, 3.0])
    assert not any(isinstance(value, list) and len(value) > 2 for value in row["launches"][0].values())
    (made,) = found["sources"]
    assert (made["command"], made["files"], made["machine"]["cores"]) == ("qafel-mpi bench p2p", 2, 2)
    assert found["content"] == printed("bench", tmp_path / "0.json", tmp_path / "1.json")


def test_a_script_s_record_has_what_it_found_in_each_run_with_all_their_sources(runs, tmp_path, monkeypatch):
    out = tmp_path / "new" / "names.json"
    monkeypatch.setattr(sys, "argv", ["names.py", str(out), *map(str, runs)])
    of_runs("names", lambda path: path.stem, "a remark")
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found["content"] == [path.stem for path in runs]
    assert (found["kind"], found["note"]) == ("names", "a remark")
    assert sum(source["files"] for source in found["sources"]) == len(runs)


def test_a_window_beside_the_run_is_refused_with_the_runs_length(runs):
    done = CliRunner().invoke(app, ["timeline", str(runs[0]), "--window", "1000:1001"])
    assert done.exit_code == 2
    assert "nothing lies between 1000 s and 1001 s; the run has" in done.output


def test_the_files_of_one_folder_are_one_word_of_the_recorded_command(runs, tmp_path, monkeypatch):
    found = recorded(monkeypatch, tmp_path / "x.json", "compare", *runs)
    assert found["command"] == f"qafel-analysis compare {runs[0].parent}/*.h5 --record {tmp_path}/x.json"


def test_values_at_are_those_of_the_last_evaluation_before(runs):
    curve = printed("curves", *runs, "--x", "server_steps", "--y", "loss", "--at", "-1,7.5,1e9")
    assert [one["seeds"] for one in curve] == [[0, 1], [0, 1]]
    for path, values in zip(runs, [values for one in curve for values in one["values"]], strict=True):
        steps = load(path).steps
        evaluated = steps[steps["loss"].notna()]
        before = evaluated[evaluated["version"] <= 7.5]
        assert values == [None, before["loss"].iloc[-1], evaluated["loss"].iloc[-1]]


def test_a_loss_that_is_infinite_or_too_large_to_add_up_is_no_point_of_a_curve(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{seed}.h5", Example(messages=600, seed=seed)) for seed in (0, 1)]
    for path in paths:
        with edited(path) as file:
            steps = file["steps"][:]
            evaluated = np.flatnonzero(np.isfinite(steps["loss"]))
            steps["loss"][evaluated[-1]], steps["loss"][evaluated[-2]] = np.inf, 1.7e308
            file["steps"][...] = steps
    for words in ([], ["--at", "1,10000"]):
        command = ["curves", *paths, "--y", "loss", "--x", "server_steps", *words]
        (found,) = recorded(monkeypatch, tmp_path / "x.json", *command)["content"]
        numbers = found["values"][0] if words else found["high"]
        assert numbers[-1] == pytest.approx(1.7e308), "the last that was finite"
        shown = CliRunner().invoke(app, list(map(str, command)))
        assert shown.exit_code == 0, shown.exception
        assert "1.7e+308" in shown.output
    (one,) = collect(paths).groups
    assert np.isfinite(
        convergence.band(one, [d.curve for d in collect(paths).drawn], "uploads", "loss").high
    ).all()


def test_a_gap_is_read_at_every_step_and_not_at_evaluated_ones_alone(runs):
    curve = printed("curves", *runs, "--x", "server_steps", "--y", "gap", "--at", "1:9")
    for path, values in zip(runs, [values for one in curve for values in one["values"]], strict=True):
        steps = load(path).steps
        assert steps["loss"].isna()[1:10].any()
        assert values == steps[steps["version"].between(1, 9)]["gap"].tolist()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--x", "steps"], "--x steps: not one of uploads"),
        (["--y", "speed"], "--y speed: not one of accuracy"),
        (["--at", "1,two"], "--at 1,two: not numbers"),
        (["--at", "1,nan"], "--at 1,nan: not numbers"),
        (["--at", "inf"], "--at inf: not numbers"),
        (["--at", "1:two"], "--at 1:two: not numbers"),
    ],
)
def test_a_curve_that_is_not_known_is_refused_with_those_that_are(runs, words, complaint):
    done = CliRunner().invoke(app, ["curves", str(runs[0]), *words], env={"COLUMNS": "200"})
    assert done.exit_code == 2
    assert complaint in " ".join(done.output.split())
