"""Clocks that drift while a broadcast is sampled."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi.bench.measuring import check, hostclocks
from qafel_mpi.bench.measuring.hostclocks import HostClocks, Last
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Samples
from qafel_mpi.transport.clocks import ClockReading


def clocks(monkeypatch, readings: list[tuple[float, float, float]], *, one_host: bool = False) -> HostClocks:
    """readings: (when, offset, bound) of a clock that is read as rank 0's, in a world of one rank."""
    monkeypatch.setattr(hostclocks, "_one_host", lambda comm: one_host)
    monkeypatch.setattr(hostclocks, "perf_counter", lambda: readings[0][0])

    def read(comm):
        at, offset, bound = readings[0]
        return [ClockReading(0, at, offset, bound)]

    made = HostClocks(MPI.COMM_SELF, read)
    del readings[0]
    made.read_again()
    return made


def test_a_drift_of_10_us_a_second_is_taken_out_of_every_sample(monkeypatch):
    """Sampled from 1 s on, a second apart; the clock falls behind: with the first offsets times seem ever shorter."""
    found = clocks(monkeypatch, [(0.0, 5.0, 2e-6), (4.0, 5.0 + 40e-6, 1e-6)])
    raw = 100e-6 - 10e-6 * np.arange(1.0, 4.0)
    fixed = found.corrected(Samples(raw[1:], raw[:1]), [Last(0, at) for at in (1.0, 2.0, 3.0)])
    assert fixed.values == pytest.approx([100e-6, 100e-6])
    assert fixed.warmups == pytest.approx([100e-6])
    assert found.error_s == 2e-6


def test_ranks_of_one_host_have_one_clock_unless_a_reading_speaks_against_it(monkeypatch):
    same = clocks(monkeypatch, [(0.0, 1e-6, 2e-6), (1.0, -1e-6, 2e-6)], one_host=True)
    assert (same.error_s, same.offsets_s.tolist(), same.drifts.tolist()) == (0.0, [0.0], [0.0])
    unlike = clocks(monkeypatch, [(0.0, 3e-6, 2e-6), (1.0, 3e-6, 2e-6)], one_host=True)
    assert (unlike.error_s, unlike.offsets_s.tolist()) == (2e-6, [3e-6])


@pytest.mark.parametrize(("error_us", "doubted"), [(0.4, False), (0.6, True)])
def test_clocks_that_may_be_wrong_by_over_5_percent_are_doubted(error_us, doubted):
    values = 1e-5 * (1 + 0.01 * np.random.default_rng(0).standard_normal(200))
    row = Row("broadcast", {}, Samples(values, values[:1]), derived={"clock_error_us": error_us})
    assert [doubt.reason.startswith("clocks: ") for doubt in check.doubts(row)] == [True] * doubted
