"""docs/results/tradeoff.py: errors and bytes of a recorded run."""

import h5py
import pytest

from docs.results.tradeoff import measured


def test_errors_are_those_of_the_trace_and_bytes_those_of_a_message(trace):
    found = measured(trace)
    assert (found["variant"], found["seed"]) == ("qafel-apart-constant", 3)
    assert 0.8 < found["delta_c"] < 1, "qsgd with 4 bits"
    assert 0.8 < found["delta_s"] < 1
    with h5py.File(trace) as file:
        assert found["upload_bytes"] == file.attrs["payload_bytes_per_upload"]
        errors = file["encodings"][:]
    lost = (errors["quantization_error"] / errors["norm"]) ** 2
    assert found["delta_c"] == pytest.approx(1 - lost.mean())
    assert found["uploads_to_target"] is None
