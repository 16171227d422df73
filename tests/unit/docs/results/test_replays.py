"""docs/results/replays.py: a run that replays is the same."""

import shutil

import h5py
import pytest

from docs.results.replays import measured
from qafel_mpi.trace.seal import write_seal


def test_a_run_that_replays_to_its_own_model_is_the_same(trace):
    found = measured(trace)
    assert found["same"] is True
    assert (found["driver"], found["seed"], found["server_steps"]) == ("virtual", 3, 20)
    with h5py.File(trace) as file:
        assert found["x_digest"] == file["final"].attrs["x_digest"]
    assert found["run"] == f"{trace.parent.name}/{trace.stem}"


def test_a_run_of_other_code_is_refused_with_the_reason(trace, tmp_path):
    other = tmp_path / "other.h5"
    shutil.copy(trace, other)
    with h5py.File(other, "r+") as file:
        file.attrs["fingerprints"] = file.attrs["fingerprints"].replace('"package": "', '"package": "not ')
    write_seal(other)
    with pytest.raises(SystemExit, match="can't be replayed bit for bit here"):
        measured(other)
