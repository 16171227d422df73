"""The traffic of a run that went on with fewer ranks than it began with."""

from __future__ import annotations

from pathlib import Path

import pytest
from qafel_analysis.read.traffic import traffic

from qafel_mpi.trace.merge import merge, write_run
from qafel_mpi.trace.reader import TraceError, open_trace
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import MESSAGES, RANKS
from tests.unit.trace.made import row


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Of 4 ranks, which each sent one message to rank 0, and 2 when it was resumed."""
    directory = tmp_path / "a.shards"
    for rank in range(4):
        recorder = Recorder(directory, rank)
        recorder.messages.append(row(MESSAGES, src=rank, wire_bytes=10 + rank))
        recorder.ranks.replace(row(RANKS, rank=rank, rows_written=1))
        recorder.close()
    write_run(directory, {"ranks": 2, "outcome": "finished", "resumed": [{"ranks": 2, "package": ""}]})
    return directory


def test_messages_of_ranks_that_take_no_part_any_more_count(shards):
    for path in (shards, merge(shards).path):
        with open_trace(path) as trace:
            found = traffic(trace)
        assert found.ranks == 4
        assert found.links["wire_bytes"].tolist() == [10, 11, 12, 13]


def test_a_rank_of_no_start_is_damage(shards):
    recorder = Recorder(shards, 1)
    recorder.messages.append(row(MESSAGES, src=4))
    recorder.close()
    with open_trace(shards) as trace, pytest.raises(TraceError, match="src that is none of its 4 ranks"):
        traffic(trace)
