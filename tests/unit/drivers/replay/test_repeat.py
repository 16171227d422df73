"""Where the updates of a batch stand among the recorded ones."""

import numpy as np

from qafel_mpi.drivers.replay.repeat import Places
from qafel_mpi.trace_schema import UPDATES


def test_the_row_of_each_job_is_found_and_minus_one_of_those_that_have_none():
    rows = np.zeros(4, dtype=UPDATES)
    rows["client"], rows["participation"] = [7, 2, 7, 0], [1, 0, 0, 5]
    assert Places(rows).of([(7, 0), (0, 5), (1, 1), (7, 1), (9, 9), (2, 0)]) == [2, 3, -1, 0, -1, 1]
    assert Places(rows[:0]).of([(7, 0)]) == [-1]
