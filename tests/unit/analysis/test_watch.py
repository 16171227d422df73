"""Following a run from its shards: what is new at each look, the slowest ranks, the time left, the end."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from qafel_analysis.read.rows import Target
from qafel_analysis.watch import Follower, Progress, _of_step, newest, targets

from qafel_mpi.trace.merge import merge, shards_of, write_run
from qafel_mpi.trace.reader import TraceError
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import HEADER_BYTES, KIND_NAMES, MESSAGES, STEPS, UPDATES

SIZE = 100
ORIGIN_S = 5000.0  # of rank 0's raw clock
UPDATE = next(kind for kind, name in KIND_NAMES.items() if name == "update")


class GoingOn:
    """A run of 3 client ranks as rank 0 records it: rank 1 sends twice as often as rank 2, rank 3 nothing."""

    def __init__(self, out: Path, driver: str = "wall", started: datetime | None = None):
        self.out, self.directory = out, shards_of(out)
        self.recorder = Recorder(self.directory, 0)
        self.uploads = 0
        self.attributes = {
            "experiment": "[stop]\naccuracy = 0.9\nuploads = 400\nseconds = 1000.0\n",
            "algorithm": "qafel", "driver": driver, "ranks": 4, "origin_s": ORIGIN_S,
            "started": (started or datetime.now(UTC)).isoformat(),
        }  # fmt: skip
        write_run(self.directory, self.attributes)

    def step(self) -> None:
        """Ten uploads in a second, and a server step; accuracy rises by 0.01."""
        for _ in range(10):
            rank = 2 if self.uploads % 3 == 2 else 1
            raw_s = ORIGIN_S + 0.1 * self.uploads
            self._row("messages", MESSAGES, end=1, kind=UPDATE, src=rank, t_complete=raw_s)
            self._row("updates", UPDATES, staleness=self.uploads % 2)
            self.uploads += 1
        version = self.uploads // 10
        self._row(
            "steps", STEPS, version=version, uploads=self.uploads, time_s=0.1 * self.uploads,
            accuracy=0.01 * version, loss=3 - 0.1 * version,
            payload_bytes_up=SIZE * self.uploads, payload_bytes_down=SIZE * version, messages_down=version,
        )  # fmt: skip
        self.recorder.flush()

    def _row(self, table: str, dtype: np.dtype, **values: float) -> None:
        getattr(self.recorder, table).append(tuple((dict.fromkeys(dtype.names or (), 0) | values).values()))

    def end(self, outcome: str) -> None:
        self.recorder.close()
        write_run(
            self.directory, self.attributes | {"outcome": outcome, "uploads": self.uploads, "seconds": 9.0}
        )
        merge(self.directory, self.out, remove=True)


@pytest.fixture
def run(tmp_path) -> GoingOn:
    return GoingOn(tmp_path / "a.h5")


def test_each_look_adds_what_is_new(run):
    follower = Follower(run.directory)
    assert follower.poll().uploads == 0
    for steps in (1, 2, 5):
        while run.uploads < 10 * steps:
            run.step()
        now = follower.poll()
        assert (now.uploads, now.server_steps) == (10 * steps, steps)
        assert now.payload_bytes_up == SIZE * 10 * steps
        assert now.wire_bytes == (SIZE + 64) * 11 * steps
        assert now.accuracy == pytest.approx(0.01 * steps)
        assert now.mean_staleness == pytest.approx(0.5)
        assert now.elapsed_s == pytest.approx(steps)
        assert now.outcome is None
    assert follower.poll().as_json() == now.as_json()


def test_the_slowest_rank_comes_first_and_one_that_is_silent_is_among_them(run):
    for _ in range(6):
        run.step()
    now = Follower(run.directory).poll()
    assert [r.rank for r in now.ranks] == [3, 2, 1]
    assert [r.uploads for r in now.ranks] == [0, 20, 40]
    assert np.isnan(now.ranks[0].silent_s)
    assert now.ranks[1].uploads_per_second == pytest.approx(20 / 5.9, rel=0.01)
    assert now.ranks[2].silent_s == pytest.approx(0.1, abs=0.11)


def test_rates_are_the_latest_and_time_is_left(run):
    for _ in range(20):
        run.step()
    now = Follower(run.directory).poll()
    assert now.uploads_per_second == pytest.approx(10)
    assert now.payload_bytes_per_second == pytest.approx(11 * SIZE)
    left = {one.what: one for one in now.left}
    assert left["uploads 400"].seconds == pytest.approx(20)
    assert left["uploads 400"].at_most
    assert left["seconds 1,000"].seconds == pytest.approx(980)
    assert left["accuracy 0.9"].seconds == pytest.approx(70)
    assert not left["accuracy 0.9"].at_most


def test_a_target_that_things_move_away_from_has_no_time_left():
    now = replace(Progress("a", None, 10.0), uploads=40, uploads_per_second=10.0)
    falling = [(float(u), 0.9 - 0.01 * u, 1.0) for u in range(30, 41)]
    assert targets(now, falling, Target(accuracy=0.95)) == []
    assert targets(now, falling[:2], Target(accuracy=0.1)) == []


def test_a_virtual_run_is_timed_by_the_watch_not_by_its_virtual_clock(tmp_path):
    run = GoingOn(tmp_path / "v.h5", driver="virtual", started=datetime.now(UTC) - timedelta(seconds=100))
    run.step()
    now = Follower(run.directory).poll()
    assert now.elapsed_s == pytest.approx(100, abs=5)
    assert now.virtual_seconds == pytest.approx(1.0)


def test_the_end_is_seen_in_the_trace_that_the_merge_made(run):
    run.step()
    follower = Follower(run.directory)
    follower.poll()
    run.end("target reached")
    now = follower.poll()
    assert (now.outcome, now.uploads, now.elapsed_s) == ("target reached", 10, 9.0)


def test_the_run_that_was_written_to_last_is_followed(tmp_path, run):
    run.step()
    other = GoingOn(tmp_path / "deep" / "er" / "b.h5")
    other.step()
    os.utime(run.directory / "steps.000000.npys", (2e9, 2e9))
    assert newest(tmp_path) == run.directory
    assert newest(other.directory) == other.directory
    (tmp_path / "empty").mkdir()
    with pytest.raises(TraceError, match="no run is in progress here"):
        newest(tmp_path / "empty")


def test_the_name_of_the_trace_to_come_finds_the_run_and_a_trace_says_how_to_read_it(run):
    trace = run.directory.with_suffix(".h5")
    assert newest(trace) == run.directory
    other = trace.with_name("other.h5")
    other.touch()
    with pytest.raises(TraceError, match=r"has ended; `qafel-analysis table .*other\.h5` shows it"):
        newest(other)


def test_headers_are_those_of_the_downloads_where_clients_download():
    step = np.zeros(1, STEPS)[0]
    step["uploads"], step["version"], step["messages_down"] = 10, 1, 12
    assert _of_step(step)["wire_bytes"] == HEADER_BYTES * 22
    step["messages_down"] = -1  # of an older version
    assert _of_step(step)["wire_bytes"] == HEADER_BYTES * 11


def test_a_run_that_has_ended_is_found_by_the_name_of_its_shards(run):
    run.step()
    run.end("target reached")
    shutil.rmtree(run.directory)  # as a run does that has merged them
    assert newest(run.directory) == run.directory
    assert Follower(run.directory).poll().outcome == "target reached"
    with pytest.raises(TraceError, match="no such folder"):
        newest(run.directory.with_name("other.shards"))


def watch(*arguments) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-c",
        "from qafel_analysis.commands.app import main; main()",
        "watch",
        *map(str, arguments),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_command_says_it_in_words_and_in_json(tmp_path, run):
    for _ in range(6):
        run.step()
    said = watch(tmp_path, "--once")
    assert said.returncode == 0
    for words in ("uploads 60", "10.0 uploads/s", "slowest: rank 3", "left: at most 34.0 s (uploads 400)"):
        assert words in said.stdout
    found = json.loads(
        watch(tmp_path, "--once", "--json").stdout, parse_constant=lambda name: pytest.fail(name)
    )
    assert found["uploads"] == 60
    assert found["ranks"][0] == {"rank": 3, "uploads": 0, "uploads_per_second": 0.0, "silent_s": None}


def test_nothing_to_follow_is_said(tmp_path):
    done = watch(tmp_path)
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "no run is in progress here" in done.stderr
    assert watch(tmp_path / "none").returncode == 2


def test_faults_of_every_rank_and_rank_0s_memory_are_followed_and_are_in_the_merged_trace(run):
    run.step()
    other = Recorder(run.directory, 2)
    run.recorder.fault("disk", rank=0)
    other.fault("rank silent", rank=3)
    other.flush()
    run.recorder.memory.append((0.5, 7_000_000))
    run.recorder.memory.append((1.5, 9_000_000))
    run.recorder.flush()
    now = Follower(run.directory).poll()
    assert (now.faults, now.resident_bytes) == ({"disk": 1, "rank silent": 1}, 9_000_000)
    other.close()
    run.end("finished")
    ended = Follower(run.directory).poll()
    assert (ended.faults, ended.resident_bytes) == (now.faults, now.resident_bytes)
