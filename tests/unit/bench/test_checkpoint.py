"""The cost of checkpoints as a share of a run: worked out by hand, from what a trace says."""

import pytest

from qafel_mpi.bench.checkpoint import Cost, read, row


class MadeTrace:
    """Four checkpoints that held the run for 2 ms and were written in 8 ms each."""

    attributes = {  # noqa: RUF012
        "parameters": 1000,
        "checkpoints": '{"written": 4, "failed": 1, "bytes": 5000, "held_s": 0.008, "write_s": 0.032}',
    }


def test_a_checkpoints_cost_is_a_runs_over_their_number():
    assert read(MadeTrace()) == Cost(1000, 4, 1, 5000, pytest.approx(0.002), pytest.approx(0.008))


@pytest.mark.parametrize(
    ("took_s", "every_s", "share"),
    [(0.06, 60.0, 0.06 / 60.06), (3.0, 300.0, 3 / 303)],
    ids=["a quick one once a minute", "a slow one less often"],
)
def test_the_share_is_that_at_the_default_interval(took_s, every_s, share):
    costs = [Cost(1000, 4, 0, 5000, took_s / 3, 2 * took_s / 3)] * 3
    found = row([costs[0]._replace(held_s=9.0), *costs], 3, least_s=60.0, share=0.01)
    assert found.derived["every_s"] == pytest.approx(every_s)
    assert found.derived["share"] == pytest.approx(share)
    assert found.derived["held_us"] == pytest.approx(1e6 * took_s / 3)
    assert (found.wrong, found.bytes_moved) == (0, 5000)
    assert len(found.ours.values) == 3, "the first run warms up"
