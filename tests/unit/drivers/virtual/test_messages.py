"""Which worker trains which clients."""

import pytest

from qafel_mpi.drivers.virtual.messages import addressee
from qafel_mpi.drivers.virtual.outstanding import Outstanding


def loaded(trainings: dict[int, int]) -> Outstanding:
    outstanding = Outstanding(trainings)
    outstanding.update(trainings)
    return outstanding


def test_a_batch_goes_to_the_worker_with_the_least_to_do():
    assert addressee([(7, 0), (8, 0)], loaded({1: 3, 2: 1, 3: 2}), kept=False) == 2


@pytest.mark.parametrize("outstanding", [{1: 0, 2: 9}, {1: 9, 2: 0}])
def test_a_client_whose_state_is_kept_goes_to_one_worker_however_much_that_has_to_do(outstanding):
    trained = [addressee([(client, 5)], loaded(outstanding), kept=True) for client in range(4)]
    assert trained == [1, 2, 1, 2]
