"""Clocks of ranks against rank 0's: offsets, drift, and errors that hold what they claim."""

import numpy as np
import pytest

from qafel_mpi.trace.clock import WANDER, Clocks, with_drift
from qafel_mpi.trace_schema import CLOCK

NAN = float("nan")


def test_a_skewed_and_drifting_clock_is_recovered():
    """A clock 3 s off that gains 50 µs a second: the correction is exact at and between synchronisations."""
    true = np.linspace(0, 100, 11)
    own = (true - 3) * (1 + 50e-6)
    readings = np.zeros(3, dtype=CLOCK)
    for k, at in enumerate((0, 5, 10)):
        readings[k] = (1, k, own[at], true[at] - own[at], NAN, 1e-6)
    assert np.allclose(Clocks(readings, 0.0).of(1).corrected(own), true, atol=1e-9)
    assert np.allclose(with_drift(readings)["drift"][1:], -50e-6, atol=1e-8)


def test_a_worse_reading_counts_only_where_it_contradicts_better_ones():
    """Begin and end are read to 1 µs; in between the rank was busy, and a reading is good to 1 ms."""
    readings = np.zeros(4, dtype=CLOCK)
    readings[0] = (1, 0, 0.0, 5.0, NAN, 1e-6)
    readings[1] = (1, 1, 40.0, 5.0 + 0.8e-3, NAN, 1e-3)  # compatible with the line at 5.0
    readings[2] = (1, 2, 60.0, 5.0 + 3e-3, NAN, 1e-3)  # it is not: the clock has wandered
    readings[3] = (1, 3, 100.0, 5.0, NAN, 1e-6)
    clock = Clocks(readings[[0, 1, 3]], 0.0).of(1)
    assert clock.corrected(np.array(40.0)) == pytest.approx(45.0, abs=1e-6)
    assert clock.error_s(np.array(45.0)) <= 1e-6 + 1e-12
    wandered = Clocks(readings[[0, 2, 3]], 0.0).of(1)
    assert wandered.corrected(np.array(60.0)) == pytest.approx(65.0 + 3e-3, abs=1e-6)
    assert wandered.error_s(np.array(65.003)) == pytest.approx(1e-3)


def test_after_the_last_reading_the_error_grows_and_without_any_it_is_unknown():
    """A run that was killed has no reading at its end."""
    readings = np.zeros(1, dtype=CLOCK)
    readings[0] = (1, 0, 10.0, 5.0, NAN, 1e-6)
    clocks = Clocks(readings, 15.0)
    assert clocks.of(1).corrected(np.array([10.0, 30.0])).tolist() == [0.0, 20.0]
    assert clocks.of(1).error_s(np.array([0.0, 20.0])) == pytest.approx([1e-6, 1e-6 + 20 * WANDER])
    assert np.isnan(clocks.of(2).error_s(np.array(1.0)))


def test_random_readings_are_corrected_within_what_is_claimed():
    """1,000 clocks of drift within 50 ppm, read 10 times to between 1 µs and 1 ms: no claim is broken."""
    rng = np.random.default_rng(7)
    for _ in range(1000):
        drift, offset = rng.uniform(-5e-5, 5e-5), rng.uniform(-1e3, 1e3)
        true = np.sort(rng.uniform(0, 600, 10))
        own = (true - offset) / (1 + drift)
        readings = np.zeros(10, dtype=CLOCK)
        bounds = 10.0 ** rng.uniform(-6, -3, 10)
        for k in range(10):
            measured = true[k] - own[k] + rng.uniform(-1, 1) * bounds[k]
            readings[k] = (1, k, own[k], measured, NAN, bounds[k])
        clock = Clocks(readings, 0.0).of(1)
        at = np.linspace(-60, 660, 500)
        wrong_s = np.abs(clock.corrected((at - offset) / (1 + drift)) - at)
        assert (wrong_s <= clock.error_s(at) + 1e-7).all()


@pytest.mark.parametrize("damage", [0.0, NAN])
def test_readings_of_one_moment_or_without_a_time_do_no_harm(damage):
    readings = np.zeros(3, dtype=CLOCK)
    for k in range(3):
        readings[k] = (1, k, 7.0, 5.0, NAN, 1e-6)
    readings["local_s"][1] += damage
    assert Clocks(readings, 0.0).of(1).corrected(np.array(8.0)) == 13.0
