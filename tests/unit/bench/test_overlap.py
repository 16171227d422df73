"""What overlap makes of a trace, by hand; and its intervals."""

from __future__ import annotations

import numpy as np
import pytest

from qafel_mpi.bench import overlap
from qafel_mpi.bench.measuring import check
from qafel_mpi.bench.measuring.exposure import WARMUPS, Participations, exposure, samples
from qafel_mpi.config_text import ConfigError
from qafel_mpi.trace_schema import MESSAGES
from qafel_mpi.wire import Kind


def message(end: int, kind: Kind, sequence: int, **times: float) -> np.ndarray:
    row = np.zeros(1, MESSAGES)
    row["end"], row["kind"], row["sequence"], row["src"], row["dst"] = end, kind, sequence, 0, 2
    for name, value in times.items():
        row[name] = value
    return row


def client(rng, seconds: float, *, extra: float = 0.0, noise: float = 0.02, n: int = 60, begun: float = 0.0):
    """A client whose training takes so long, and whose messages cost it `extra` seconds each participation."""

    def trained() -> np.ndarray:
        return seconds * (1 + noise * rng.standard_normal(n))

    communication = 2 * seconds * np.ones(n)
    return Participations(
        begun + seconds * np.arange(n), trained() + extra, communication, 0.9 * communication, trained()
    )


def test_a_message_belongs_to_the_participation_in_which_it_was_posted():
    """Trainings from 0 to 1, 2 to 3, 4 to 5 and 6 to 7; the last has no next one that would end its period."""
    trainings = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]])
    moved = np.array([[0.5, 2.5], [2.5, 2.6], [3.5, 4.5], [6.5, 6.6], [-1.0, 0.5]])
    found = overlap.participations(trainings, moved, np.array([1.5, 1.6, 1.7, 1.8]))
    assert found.periods.tolist() == [2, 2, 2]
    assert found.communication == pytest.approx([2.0, 1.1, 0.0])
    assert found.hidden == pytest.approx([1.0, 0.6, 0.0])
    assert found.alone.tolist() == [1.5, 1.6, 1.7]


def test_a_catch_up_and_a_broadcast_of_one_number_keep_their_own_times():
    rows = [
        message(0, Kind.BROADCAST, 7, t_post=1.0),
        message(0, Kind.MODEL, 7, t_post=5.0),
        message(1, Kind.BROADCAST, 7, t_complete=2.0),
        message(1, Kind.MODEL, 7, t_complete=9.0),
    ]
    assert overlap.communication_spans(np.concatenate(rows), 2).tolist() == [[1.0, 2.0], [5.0, 9.0]]


def test_what_messages_add_to_a_participation_is_exposed_whatever_the_clients_differ_in():
    """1 ms added to 10 ms and to 40 ms of training, 2% noise: one in 40 such intervals would miss it."""
    rng = np.random.default_rng(0)
    measured = [client(rng, seconds, extra=1e-3, begun=run) for run in range(4) for seconds in (0.01, 0.04)]
    found = exposure(measured)
    low, high = found.exposed_interval
    assert low < 1e-3 < high
    assert high - low < 0.3e-3
    assert found.communication_s == pytest.approx(0.05)
    assert found.exposed_share == pytest.approx(found.exposed_s / 0.05)
    assert found.hidden_share == pytest.approx(0.9)


def test_the_interval_of_no_cost_holds_zero_about_as_often_as_it_says():
    """100 seeds: a true 95% has fewer than 88 hits with probability under 0.2%."""
    hits = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        low, high = exposure([client(rng, 0.01, n=40) for _ in range(4)]).exposed_interval
        hits += low <= 0 <= high
    assert hits >= 88


def test_samples_are_in_the_order_of_time_with_each_client_s_warm_ups_apart():
    rng = np.random.default_rng(0)
    slow, fast = client(rng, 0.02, noise=0, n=10), client(rng, 0.01, noise=0, n=20)
    ours, alone = samples([slow, fast])
    assert (len(ours.warmups), len(ours.values)) == (2 * WARMUPS, 30 - 2 * WARMUPS)
    assert (len(alone.warmups), len(alone.values)) == (2 * WARMUPS, 30 - 2 * WARMUPS)
    assert ours.values[:6].tolist() == pytest.approx([0.01, 0.01, 0.01, 0.02, 0.01, 0.01])
    assert check.drifts(ours.values) == 0


def test_a_run_with_too_few_trainings_says_so():
    rng = np.random.default_rng(0)
    with pytest.raises(ConfigError, match="raise --uploads"):
        overlap.row({}, [client(rng, 0.01, n=WARMUPS)], 0, {})
    assert overlap.uploads_needed(63) >= 63 * overlap.ROUNDS * (WARMUPS + 2)


@pytest.mark.parametrize(("noise", "doubted"), [(0.01, False), (0.9, True)])
def test_a_share_that_is_hardly_known_is_doubted(noise, doubted):
    rng = np.random.default_rng(0)
    made = overlap.row({}, [client(rng, 0.01, noise=noise)], 0, {})
    assert check.doubted(made, "share") == doubted
    assert "share" in check.claims(made)
    assert check.summary([made]).startswith(f"{0 if doubted else 1} of 1 shares, ")
