"""What the digest of an upload costs: its row, at a size that takes no time."""

import pytest

from qafel_mpi.bench import digests
from qafel_mpi.bench.measuring.timing import Limits
from qafel_mpi.drivers.digests import digest
from qafel_mpi.drivers.rows import received_row


def test_a_digest_is_a_share_of_the_work_beside_it():
    limits = Limits(seconds=0.05, least=3, most=3, warmups=1)
    (row,) = digests.rows(limits, received_row, digest, sizes=(2_000,))
    found = row.columns()
    assert found["operation"] == "digest"
    assert 1_900 < found["bytes"] < 2_100
    assert found["share"] == pytest.approx(found["median_us"] / found["work_us"])
    assert 0 < found["share"] < 1
    assert found["reference"] == "a memory pass with the same reads and writes"
