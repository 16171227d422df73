"""docs/results/server_codecs.py: what a run of the server's quantizers says."""

import h5py
import pytest

from docs.results.server_codecs import measured


def test_bytes_are_those_of_a_broadcast_on_the_wire_and_the_error_that_of_the_server(trace):
    found = measured(trace)
    assert (found["variant"], found["seed"]) == ("qafel-apart-constant", 3)
    with h5py.File(trace) as file:
        assert found["wire_bytes"] == file.attrs["payload_bytes_per_broadcast"] + 64
        steps = file["steps"][1:]
    lost = (steps["quantization_error"] / steps["difference_norm"]) ** 2
    assert found["delta_s"] == pytest.approx(1 - lost.mean())
    assert found["uploads_to_target"] is None
    assert found["learning_rate"] > 0
