"""Who is sent what, with a stand-in for MPI that takes every message at once."""

from __future__ import annotations

from qafel_mpi.transport.fanout import FanOut
from qafel_mpi.transport.frames import Frame, FramePool, Sent
from qafel_mpi.wire import Kind

START = 5000


class Sends:
    """Keeps (rank, kind, version) of each message."""

    def __init__(self) -> None:
        self.posted: list[tuple[int, Kind, int]] = []
        self.lost: list[Frame] = []

    def post(self, frame: Frame, rank: int) -> None:
        assert frame.message is not None
        self.posted.append((rank, frame.message.kind, frame.message.version))

    def under_way(self, rank: int) -> int:
        return 0

    def poll(self) -> list[Sent]:
        return []


def resumed(versions: int) -> tuple[FanOut, Sends]:
    """A run that goes on from version START and has made so many since, with the spare rank 2."""

    def catch_up(frame: Frame) -> Frame:
        return frame.seal(Kind.MODEL, version=fanout.version)

    sends = Sends()
    fanout = FanOut(
        sends,  # type: ignore[arg-type]
        FramePool(8),
        [1],
        queue_limit=2,
        log_length=3,
        catch_up=catch_up,
        spares=[2],
    )
    fanout.begin_at(START)
    for _ in range(versions):
        fanout.publish(fanout.frame().seal(Kind.BROADCAST, version=fanout.version))
    return fanout, sends


def test_a_resumed_run_counts_on_from_the_version_of_its_checkpoint():
    fanout, sends = resumed(2)
    assert sends.posted == [(1, Kind.BROADCAST, START), (1, Kind.BROADCAST, START + 1)]
    assert (fanout.version, fanout.skipped) == (START + 2, 0)


def test_digests_under_way_from_a_rank_that_is_astray_are_of_no_account_in_a_resumed_run_too():
    fanout, _ = resumed(50)
    fanout.resynchronise(1)
    assert [fanout.mends(1, START + version) for version in (40, 49, 50)] == [True, True, False]


def test_a_spare_rank_joins_a_resumed_run_from_the_version_of_its_checkpoint():
    fanout, sends = resumed(2)
    assert fanout.join(2) == "2 missed payloads"
    assert sends.posted[-2:] == [(2, Kind.BROADCAST, START), (2, Kind.BROADCAST, START + 1)]
    fanout, sends = resumed(4)
    assert fanout.join(2) == "the full state"
    assert sends.posted[-1] == (2, Kind.MODEL, START + 4)
    assert fanout.skipped == 4
