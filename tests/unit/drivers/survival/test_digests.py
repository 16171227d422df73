"""What rank 0 does about a rank that holds another hidden state; how often digests travel."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from qafel_mpi.drivers.survival.digests import KEPT, DigestBook, digest_of, digest_period
from qafel_mpi.transport.fanout import FanOut


class Book:
    """A DigestBook with the x̂ of version t, whose elements are t."""

    def __init__(self, on_divergence="resynchronise", broadcast=FanOut):
        self.faults: list[tuple[str, int, int]] = []
        self.resynchronised: list[int] = []
        session = SimpleNamespace(
            placement=SimpleNamespace(hosts=["a", "a", "b"]),
            experiment=SimpleNamespace(transport=SimpleNamespace(on_divergence=on_divergence)),
            fault=lambda kind, rank, *, version, detail="": self.faults.append((kind, rank, version)),
        )
        sends = broadcast.__new__(broadcast)
        sends.mends = lambda rank, version: rank in self.resynchronised and version < 8
        sends.resynchronise = self.resynchronised.append
        self.x_hat = torch.zeros(5)
        self.book = DigestBook(session, self.x_hat, sends, period=2)  # type: ignore[arg-type]

    def until(self, version: int) -> Book:
        for t in range(1, version + 1):
            self.x_hat += 1
            self.book.moved(t)
        return self


def of(version: int) -> int:
    return digest_of(torch.full((5,), float(version)))


def test_digests_that_agree_say_nothing_and_those_of_a_version_long_ago_count_for_nothing():
    own = Book().until(2 * KEPT + 2)
    assert own.book.compare(1, 4, of(4), ending=False) == ""
    assert own.book.compare(1, 2, of(99), ending=False) == ""  # forgotten
    assert own.book.compare(1, 5, of(99), ending=False) == ""  # none was due
    assert (own.faults, own.resynchronised) == ([], [])


def test_a_rank_that_differs_is_resynchronised_once_and_seen_to_agree_again(capsys):
    own = Book().until(8)
    for version in (4, 6):  # the second one was under way
        assert own.book.compare(2, version, of(99), ending=False) == ""
    assert own.book.compare(2, 8, of(8), ending=False) == ""
    assert own.resynchronised == [2]
    assert own.faults == [("hidden state differed", 2, 4), ("resynchronised", 2, 8)]
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("qafel-mpi: rank 2 on b holds another x̂^4 than rank 0 (digest ")
    assert said[1] == "qafel-mpi: rank 2 on b holds the same x̂^8 as rank 0 again"


@pytest.mark.parametrize(
    ("on_divergence", "broadcast", "ending"),
    [("stop", FanOut, False), ("resynchronise", SimpleNamespace, False), ("resynchronise", FanOut, True)],
    ids=["strict", "no way to send one rank a full state", "after the STOP"],
)
def test_the_run_ends_where_nothing_is_to_be_done_or_can_be(on_divergence, broadcast, ending):
    own = Book(on_divergence, broadcast).until(8)
    reason = own.book.compare(2, 4, of(99), ending=ending)
    assert reason.startswith("failed: hidden state: rank 2 on b holds another x̂^4 than rank 0")
    assert own.resynchronised == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_bit_changes_the_digest(dtype):
    x = torch.randn(1001, dtype=dtype)
    before = digest_of(x)
    assert digest_of(x.clone()) == before < 2**64
    x.view(torch.uint8)[17] ^= 1
    assert digest_of(x) != before


@pytest.mark.parametrize(
    ("versions", "unicast", "ranks", "uploads", "expected"),
    [("auto", False, 5, 10, 52), ("auto", False, 1001, 10, 12800), (7, False, 5, 10, 7), (7, True, 5, 10, 0)],
)
def test_rank_0_gets_one_digest_in_128_uploads_whatever_the_number_of_ranks(
    versions, unicast, ranks, uploads, expected
):
    transport = SimpleNamespace(digest_versions=versions)
    experiment = SimpleNamespace(transport=transport, server=SimpleNamespace(buffer_size=uploads))
    session = SimpleNamespace(experiment=experiment, comm=SimpleNamespace(size=ranks))
    assert digest_period(session, SimpleNamespace(unicast=unicast)) == expected  # type: ignore[arg-type]
