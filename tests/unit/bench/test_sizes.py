"""Memory, bytes and seconds by model size: the models are as large as asked, and what is read of a trace is right."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.bench import sizes
from qafel_mpi.trace_schema import MESSAGES, RANKS, UPDATES
from qafel_mpi.wire import Kind


@pytest.mark.parametrize("d", [1000, 29_282, 1_000_000, 60_000_000])
def test_a_model_has_about_as_many_parameters_as_asked(d):
    hidden = sizes.experiment(d, "qafel", 4).task.hidden
    assert (64 + 1) * hidden + (hidden + 1) * 10 == pytest.approx(d, rel=0.05)


class MadeTrace:
    """Two clients of 5 and 6 MB, a server of 9 MB; every time is a multiple of 1 ms."""

    attributes = {  # noqa: RUF012
        "parameters": 1000,
        "payload_bytes_per_upload": 500,
        "payload_bytes_per_broadcast": 600,
        "dropped_messages": 0,
    }

    def table(self, name):
        made = {
            "ranks": np.zeros(3, RANKS),
            "updates": np.zeros(4, UPDATES),
            "messages": np.zeros(4, MESSAGES),
        }
        made["ranks"]["rank"], made["ranks"]["peak_memory_bytes"] = [0, 1, 2], [9e6, 5e6, 6e6]
        made["updates"]["train_seconds"] = [0.9, 0.8, 0.1, 0.2]
        rows = made["messages"]
        rows["kind"] = [Kind.UPDATE, Kind.UPDATE, Kind.BROADCAST, Kind.BROADCAST]
        rows["end"] = [sizes.SENDER, sizes.RECEIVER] * 2
        rows["t_encode_end"], rows["t_decode_end"] = [1e-3, 9.0, 3e-3, 9.0], [9.0, 2e-3, 9.0, 4e-3]
        return made[name]


def test_a_run_is_read_by_rank_message_and_end():
    found = sizes.read(MadeTrace())
    assert (found.d, found.rank_0_bytes, found.client_bytes) == (1000, 9e6, 6e6)
    assert (found.upload_bytes, found.broadcast_bytes) == (500, 600)
    assert (found.encode_s, found.decode_s, found.step_s, found.apply_s) == (1e-3, 2e-3, 3e-3, 4e-3)


def test_a_parameters_bytes_are_those_above_the_smallest_size():
    small = sizes.read(MadeTrace())
    large = small._replace(d=3000, rank_0_bytes=29e6, client_bytes=7e6)
    first, second = (sizes.row(one, small, "qafel", ranks=3) for one in (small, large))
    assert "rank_0_bytes_a_parameter" not in first.derived
    assert second.derived["rank_0_bytes_a_parameter"] == 10_000
    assert second.derived["client_bytes_a_parameter"] == 500
    assert (second.ours.values.tolist(), second.ours.warmups.tolist()) == ([0.1, 0.2], [0.9, 0.8])
    assert second.columns()["client_mb"] == 7
