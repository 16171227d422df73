"""Rank 0 sends one client the model: a unicast download, or the hidden state where a client lags."""

from __future__ import annotations

from time import perf_counter
from typing import Protocol

from qafel_mpi.algorithms import server as algorithms
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.ledger import Ledger
from qafel_mpi.drivers.survival.digests import DigestBook
from qafel_mpi.schedule.hosting import Turns
from qafel_mpi.transport.broadcast import Root
from qafel_mpi.transport.fanout import FanOut
from qafel_mpi.transport.frames import Frame
from qafel_mpi.wire import Expected, Kind


class Server(Protocol):
    """What is needed here of drivers/wall/server.py's."""

    setup: Setup
    server: algorithms.Server
    ledger: Ledger
    broadcast: Root
    digests: DigestBook
    described: dict[Kind, Expected]
    turns: dict[int, Turns]


def download_next(s: Server, rank: int) -> None:
    """Unicast: the newest model for the client that a rank plays next."""
    download(s, rank, *s.turns[rank].next())


def download(s: Server, rank: int, client: int, participation: int) -> None:
    """Unicast: the newest model for a client that starts again or is asked, quantized afresh."""
    assert isinstance(s.broadcast, FanOut), "the configuration refuses the others"
    frame = s.broadcast.frame()
    frame.t_encode_begin = perf_counter()
    size, key = s.server.download(frame.payload, client=client, participation=participation)
    frame.t_encode_end = perf_counter()
    frame.seal(
        Kind.DOWNLOAD,
        payload_bytes=size,
        expected=s.described[Kind.DOWNLOAD],
        client=client,
        version=s.server.version,
        sequence=participation,
        seed=key,
    )
    s.broadcast.sends.post(frame, rank)
    s.ledger.sent_down(size)


def catch_up(s: Server, frame: Frame) -> Frame:
    """The newest hidden state into a frame, for clients that fell too far behind."""
    s.digests.moved(s.server.version, always=True)
    frame.t_encode_begin = perf_counter()
    size = s.setup.full.encode(s.server.x_hat, frame.payload, 0)
    frame.t_encode_end = perf_counter()
    return frame.seal(
        Kind.MODEL,
        payload_bytes=size,
        expected=s.described[Kind.MODEL],
        version=s.server.version,
        sequence=s.server.version,
    )
