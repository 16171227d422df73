"""`qafel-mpi crate` as a user types it; what it makes is read by rocrate."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

from qafel_analysis.example import Example, write
from rocrate.rocrate import ROCrate

MAIN = "from qafel_mpi.commands.app import main; main()"


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", MAIN, "crate", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_a_crate_holds_experiment_trace_environment_and_figures_and_says_what_belongs_together(
    tmp_path: Path,
) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write(tmp_path / f"runs/{name}.h5", Example(messages=300, seed=seed))
    done = command(
        tmp_path, "runs/a.h5", "runs/b.h5", "--out", "made/crate", "--title", "Two runs", "--author", "A. Author",
        "--license", "CC-BY-4.0",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("made/crate: 2 runs, ")
    folder = tmp_path / "made/crate"
    crate = ROCrate(folder)
    assert (crate.name, crate.root_dataset["license"].id) == (
        "Two runs",
        "https://spdx.org/licenses/CC-BY-4.0",
    )
    assert [person["name"] for person in crate.root_dataset["author"]] == ["A. Author"]
    listed = {entity.id for entity in crate.data_entities}
    there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert listed == there - {"ro-crate-metadata.json", "ro-crate-preview.html"}
    actions = [one for one in crate.contextual_entities if one.type == "CreateAction"]
    assert {action["name"] for action in actions} == {"run a", "run b"}
    for action in actions:
        name = action["name"].removeprefix("run ")
        assert [one.id for one in action["result"]] == [f"traces/{name}.h5"]
        assert [one.id for one in action["object"]] == [
            f"experiments/{name}.toml",
            f"environment/{name}.json",
        ]
        assert action["instrument"]["name"] == "qafel_mpi"
        measured = {one["name"]: one["value"] for one in action["result"][0]["variableMeasured"]}
        assert measured["uploads"] > 100
        experiment = tomllib.loads((folder / f"experiments/{name}.toml").read_text())
        assert experiment["server"]["buffer_size"] == 10
        digests = {
            hashlib.sha256(path.read_bytes()).digest()
            for path in (folder / f"traces/{name}.h5", tmp_path / f"runs/{name}.h5")
        }
        assert len(digests) == 1
        assert json.loads((folder / f"environment/{name}.json").read_text())["host"]
    assert {"figures/captions.md", "table.csv", "figures/staleness.pdf"} <= listed
    again = command(tmp_path, "runs/a.h5", "--out", "made/crate")
    assert (again.returncode, again.stderr) == (2, "made/crate: exists; give the crate a folder of its own\n")


def test_what_can_not_be_made_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "runs/a.h5", Example(messages=300))
    (tmp_path / "file").touch()
    for arguments, message in (
        (("runs/none.h5", "-o", "crate"), "runs/none.h5: no such file\n"),
        (("runs/a.h5", "-o", "file/crate"), "file: File exists\n"),
    ):
        done = command(tmp_path, *arguments)
        assert (done.returncode, done.stderr) == (2, message)
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "file"}


def test_an_interrupt_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "runs/a.h5", Example(messages=300))
    job = subprocess.Popen(
        [sys.executable, "-c", MAIN, "crate", "runs/a.h5", "-o", "crate"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    end_s = time.monotonic() + 60
    while not list(tmp_path.glob(".crate.*")) and time.monotonic() < end_s:
        time.sleep(0.02)
    os.killpg(job.pid, signal.SIGINT)
    _, said = job.communicate(timeout=300)
    assert job.returncode not in (0, None)
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
