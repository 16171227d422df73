"""Following a real run under mpirun from another process."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import qafel_analysis

from qafel_mpi.trace.merge import merge, shards_of, write_run
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import STEPS, UPDATES
from tests.support import check_against_schema, mpi_environment, mpirun, search_path

MAIN = "from {0}.commands.app import main; main()"


def watch(folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", MAIN.format("qafel_analysis"), "watch", str(folder), "--json", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def started(folder: Path, seconds: int) -> subprocess.Popen:
    """A job of three ranks that writes runs/a.h5."""
    settings = (
        "stop.accuracy=1.0",
        "stop.uploads=100000000",
        f"stop.seconds={seconds}",
        "trace.flush_seconds=0.2",
    )
    return subprocess.Popen(
        [mpirun(), "-n", "3", sys.executable, "-c", MAIN.format("qafel_mpi"), "run", "digits",
         *(part for one in settings for part in ("--set", one)), "--out", "runs/a.h5"],
        cwd=folder, env=os.environ | mpi_environment() | {"PATH": search_path(), "MPIEXEC_TIMEOUT": "290"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_running_job_is_followed_to_its_end(tmp_path):
    job = started(tmp_path, 15)  # a look takes some seconds on a busy machine
    seen = []
    try:
        while job.poll() is None:
            looked = watch(tmp_path / "runs", "--once") if (tmp_path / "runs").is_dir() else None
            if looked is not None and looked.returncode == 0:
                seen.append(json.loads(looked.stdout))
            time.sleep(1)
    finally:
        job.kill()
        job.wait()
    assert job.returncode == 0
    going_on = [now for now in seen if now["outcome"] is None and now["uploads"]]
    assert going_on, "the run was never seen while it went on"
    for now in seen:
        check_against_schema("watch", now)
    counts = [now["uploads"] for now in going_on]
    assert counts == sorted(counts)
    last = going_on[-1]
    assert {rank["rank"] for rank in last["ranks"]} == {1, 2}
    assert last["accuracy"] > 0.1
    whole = qafel_analysis.load(tmp_path / "runs" / "a.h5")
    assert last["uploads"] <= whole.attributes["uploads"]
    step = whole.steps[whole.steps["version"] == last["server_steps"]].iloc[0]
    assert last["payload_bytes_up"] == step["payload_bytes_up"]
    assert all(one["seconds"] <= 15.5 for one in last["left"] if one["what"] == "seconds 15")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def prometheus(folder: Path, texts: Path) -> Iterator[str]:
    """Prometheus and its node-exporter, on loopback, with nothing but the text files; the address of its API."""
    programs = [shutil.which("prometheus"), shutil.which("prometheus-node-exporter")]
    if None in programs:
        pytest.skip("needs prometheus and prometheus-node-exporter")
    node, own = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms}\n"
        f"scrape_configs: [{{job_name: node, static_configs: [{{targets: ['{node}']}}]}}]\n"
    )
    commands = [
        [programs[1], "--collector.disable-defaults", "--collector.textfile",
         f"--collector.textfile.directory={texts}", f"--web.listen-address={node}"],
        [programs[0], f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}",
         f"--web.listen-address={own}"],
    ]  # fmt: skip
    with open(folder / "prometheus.log", "w") as log:
        running = [subprocess.Popen([*map(str, command)], stdout=log, stderr=log) for command in commands]
    try:
        yield f"http://{own}/api/v1"
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait(timeout=120)


def scraped(address: str, query: str) -> list[tuple[dict[str, str], list[float]]]:
    """(labels, the values at every scrape) of each series; [] while Prometheus is not up yet."""
    try:
        with urllib.request.urlopen(
            f"{address}/query?query={urllib.parse.quote(query)}", timeout=10
        ) as answer:
            found = json.load(answer)["data"]["result"]
    except OSError:
        return []
    return [(one["metric"], [float(value) for _, value in one["values"]]) for one in found]


class MadeUpRun:
    """Rank 0's books of a run, without the run: ten uploads and a server step at a time."""

    def __init__(self, out: Path):
        self.out, self.directory, self.version = out, shards_of(out), 0
        self.attributes = {"driver": "wall", "ranks": 2, "origin_s": 0.0}
        write_run(self.directory, self.attributes)
        self.recorder = Recorder(self.directory, 0)

    def step(self) -> int:
        """The uploads that there are now."""
        self.version += 1
        for _ in range(10):
            self.recorder.updates.append(tuple(np.zeros(1, UPDATES)[0]))
        row = np.zeros(1, STEPS)[0]
        row["version"], row["uploads"], row["time_s"] = self.version, 10 * self.version, self.version
        self.recorder.steps.append(tuple(row))
        self.recorder.flush()
        return 10 * self.version

    def end(self) -> None:
        self.recorder.close()
        totals = {"outcome": "finished", "uploads": 10 * self.version, "seconds": float(self.version)}
        write_run(self.directory, self.attributes | totals)
        merge(self.directory, self.out, remove=True)


def becomes(address: str, metric: str, value: float) -> list[float]:
    """Wait until Prometheus has this value of the metric; the values at every scrape until then."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        for labels, values in scraped(address, f"{metric}[5m]"):
            assert labels["run"].endswith("runs/a")
            if values[-1] == value:
                return values
        time.sleep(0.1)
    return pytest.fail(f"{metric} is never {value}: {scraped(address, metric + '[5m]')}")


def test_prometheus_scrapes_a_run_that_goes_on(tmp_path):
    (texts := tmp_path / "texts").mkdir()
    run = MadeUpRun(tmp_path / "runs/a.h5")
    command = [
        sys.executable,
        "-c",
        MAIN.format("qafel_analysis"),
        "watch",
        str(run.directory),
        "--every",
        "0.2",
    ]
    with prometheus(tmp_path, texts) as address, open(tmp_path / "watch.log", "w") as log:
        watched = subprocess.Popen(
            [*command, "--prometheus", str(texts / "qafel.prom")], stdout=log, stderr=log
        )
        try:
            for _ in range(3):
                becomes(address, "qafel_run_uploads_total", run.step())
            assert set(becomes(address, "qafel_run_active", 1)) == {1}
            run.end()
            states = becomes(address, "qafel_run_active", 0)
            assert watched.wait(timeout=300) == 0, (tmp_path / "watch.log").read_text()
        finally:
            watched.kill()
            watched.wait()
        uploads = becomes(address, "qafel_run_uploads_total", 30)
        errors = scraped(address, "node_textfile_scrape_error[5m]")
    assert set(uploads) == {10, 20, 30}
    assert states == sorted(states, reverse=True)
    assert {value for _, values in errors for value in values} == {0}
