"""trace.on_error: what a rank does with what the disk refuses."""

from __future__ import annotations

import pytest

from qafel_mpi.drivers.survival.disk import DiskFaults
from qafel_mpi.trace.recorder import Recorder
from qafel_mpi.trace.shards import TraceError
from qafel_mpi.trace_schema import STEPS
from tests.unit.trace.made import row

FULL = TraceError("a.npys: No space left on device")


def test_a_run_that_is_to_stop_raises_what_the_disk_says():
    with pytest.raises(TraceError, match="No space left"):
        DiskFaults(go_on=False)(FULL, 3)


def test_a_run_that_goes_on_says_the_first_fault_and_counts_rows(capfd):
    told = []
    faults = DiskFaults(go_on=True, noticed=told.append)
    faults(FULL, 3)
    faults(TraceError("another"), 4)
    assert faults.lost_rows == 7
    assert told == [str(FULL)]
    assert capfd.readouterr().err.count("the run goes on without it") == 1


def test_rows_that_the_disk_refuses_are_counted_and_later_ones_are_written(tmp_path):
    (tmp_path / "a.shards").write_text("a file where the folder is to be")
    faults = DiskFaults(go_on=True)
    recorder = Recorder(tmp_path / "a.shards", 0, capacity=2, on_error=faults)
    for k in range(5):
        recorder.steps.append(row(STEPS, version=k))
    (tmp_path / "a.shards").unlink()
    recorder.close()
    assert (faults.lost_rows, recorder.rows) == (4, 5)
    assert (tmp_path / "a.shards/steps.000000.npys").stat().st_size > 0


def test_a_name_that_could_not_be_taken_is_not_written_under(tmp_path):
    """Rows of another run may lie there."""
    (tmp_path / "file").write_text("")
    faults = DiskFaults(go_on=True)
    assert faults.take_name(tmp_path / "file" / "a.h5") == ""
    assert faults.untaken
    assert faults.complete(tmp_path / "a.shards", tmp_path / "a.h5", {}) is None
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert DiskFaults(go_on=False).take_name(tmp_path / "file" / "a.h5").endswith("Not a directory")
