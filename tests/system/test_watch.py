"""Following a real run under mpirun from another process."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import qafel_analysis

from tests.support import mpi_environment, mpirun, search_path

MAIN = "from {0}.commands.app import main; main()"


def watch(folder: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", MAIN.format("qafel_analysis"), "watch", str(folder), "--once", "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_running_job_is_followed_to_its_end(tmp_path):
    settings = ("stop.accuracy=1.0", "stop.uploads=100000000", "stop.seconds=5", "trace.flush_seconds=0.2")
    job = subprocess.Popen(
        [mpirun(), "-n", "3", sys.executable, "-c", MAIN.format("qafel_mpi"), "run", "digits",
         *(part for one in settings for part in ("--set", one)), "--out", "runs/a.h5"],
        cwd=tmp_path, env=os.environ | mpi_environment() | {"PATH": search_path(), "MPIEXEC_TIMEOUT": "100"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    seen = []
    try:
        while job.poll() is None:
            looked = watch(tmp_path / "runs") if (tmp_path / "runs").is_dir() else None
            if looked is not None and looked.returncode == 0:
                seen.append(json.loads(looked.stdout))
            time.sleep(1)
    finally:
        job.kill()
        job.wait()
    assert job.returncode == 0
    going_on = [now for now in seen if now["outcome"] is None and now["uploads"]]
    assert going_on, "the run was never seen while it went on"
    counts = [now["uploads"] for now in going_on]
    assert counts == sorted(counts)
    last = going_on[-1]
    assert {rank["rank"] for rank in last["ranks"]} == {1, 2}
    assert last["accuracy"] > 0.1
    whole = qafel_analysis.load(tmp_path / "runs" / "a.h5")
    assert last["uploads"] <= whole.attributes["uploads"]
    step = whole.steps[whole.steps["version"] == last["server_steps"]].iloc[0]
    assert last["payload_bytes_up"] == step["payload_bytes_up"]
    assert all(one["seconds"] <= 5.5 for one in last["left"] if one["what"] == "seconds 5")
