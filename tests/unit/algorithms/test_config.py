"""Settings of algorithms that contradict each other."""

import pytest

from qafel_mpi.algorithms.config import DownlinkConfig


def test_modes_that_contradict_each_other_are_refused_with_the_reason():
    with pytest.raises(ValueError, match="no effect with mode = 'none'"):
        DownlinkConfig(mode="none", codec="qsgd")
    with pytest.raises(ValueError, match="unicast"):
        DownlinkConfig(mode="hidden", delivery="unicast")
    assert DownlinkConfig(mode="none").codec == "identity"
