"""What the digest of an upload costs: its row, at a size that takes no time."""

import numpy as np
import pytest

from qafel_mpi.bench import digests
from qafel_mpi.bench.measuring.timing import Limits, Samples
from qafel_mpi.drivers.digests import digester

NOTHING = np.zeros(0)


def test_both_ways_are_sampled_as_often():
    limits = Limits(seconds=0.05, least=3, most=3, warmups=1)
    payload_bytes, samples = digests.cost(2_000, limits, digester)
    assert 1_900 < payload_bytes < 2_100
    assert [len(samples[name].values) for name in ("digest", "none")] == [3, 3]
    assert min(map(min, (one.values for one in samples.values()))) > 0


def test_the_share_is_the_median_of_the_differences_over_the_least_work():
    with_, without = np.array([5e-6, 9e-6, 6e-6]), np.array([4e-6, 4e-6, 4e-6])
    samples = {"digest": Samples(with_, NOTHING), "none": Samples(without, NOTHING)}
    found = digests.row(2_048, samples, [120e-6, 100e-6, 200e-6]).columns()
    assert (found["operation"], found["bytes"]) == ("digest", 2_048)
    assert found["share"] == pytest.approx(0.02)
    assert found["work_us"] == pytest.approx(100)
    assert found["most_work_us"] == pytest.approx(200)
    assert found["extra_us"] == pytest.approx(2)


def test_the_experiment_has_uploads_of_about_the_wanted_size():
    chosen = digests.experiment(15_000, 40)
    elements = chosen.task.hidden * 75 + 10
    assert abs(elements / digests.codec_for(15_000).layout.elements - 1) < 0.01
    assert chosen.stop.uploads == 40
