"""docs/results/heterogeneity.py: shares of the slowest, and the accuracy of each class."""

import numpy as np
import pytest

from docs.results.heterogeneity import measured, shares


def rows(*of):
    """(client, seconds, weight) of each update."""
    return np.array(list(of), dtype=[("client", "i8"), ("train_seconds", "f8"), ("weight", "f8")])


def test_the_slowest_fifth_are_those_that_trained_longest():
    updates = rows(*[(c, 1.0, 1.0) for c in (0, 1, 2) for _ in range(3)], (3, 9.0, 3.0), (4, 5.0, 1.0))
    assert shares(updates, clients=5) == pytest.approx({"clients": 0.2, "uploads": 1 / 11, "weights": 3 / 13})


def test_a_client_that_never_came_back_is_the_slowest():
    assert shares(rows((0, 1.0, 1.0), (1, 2.0, 1.0)), clients=5)["uploads"] == 0


def test_accuracies_of_the_classes_make_the_run_s_own(trace):
    found = measured(trace)
    assert len(found["accuracy_by_class"]) == 10
    assert 0 < found["slowest"]["uploads"] < 0.2, "who is slow sends less where all always train"
    assert found["slowest"]["weights"] == pytest.approx(found["slowest"]["uploads"])
    assert np.mean(found["accuracy_by_class"]) == pytest.approx(found["accuracy"], abs=0.02)
