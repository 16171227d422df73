"""A trace as pandas frames."""

from __future__ import annotations

from qafel_analysis.read.frames import load

from qafel_mpi.trace.live import ShardTrace
from qafel_mpi.trace.merge import shards_of, write_run
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace_schema import UPDATES
from tests.unit.trace.made import row


def test_rows_that_are_flushed_while_a_table_is_read_are_read_too(tmp_path, monkeypatch):
    shards = shards_of(tmp_path / "a.h5")
    recorder = Recorder(shards, 0)
    recorder.updates.append(row(UPDATES, client=0))
    recorder.flush()
    write_run(shards, {"experiment": "", "driver": "wall", "ranks": 2})
    blocks = ShardTrace.new_blocks

    def going_on(self, *arguments, **options):
        recorder.updates.append(row(UPDATES, client=1))
        recorder.flush()
        return blocks(self, *arguments, **options)

    monkeypatch.setattr(ShardTrace, "new_blocks", going_on)
    updates = load(shards).updates
    assert updates["client"].tolist() == [0, 1]
    assert updates[["client", "loss"]].shape == (3, 2)
    recorder.close()
