"""Before the first step every rank shows rank 0 what it is about to run; a mismatch is one clear error."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.shared import is_seen


class HandshakeError(Exception):
    """Ranks that don't agree; the message names the rank, its host, the field and both values."""


# What is compared, as text so that an error can show it; long values are hashed by the caller.
FIELDS = ("mpi", "protocol", "package", "experiment", "layout", "uplink", "downlink", "model")
CARD = np.dtype([(name, "S64") for name in ("host", "mark", "no_mark", *FIELDS)])


@dataclass(frozen=True)
class Card:
    """One rank's answers. Each field is at most 64 bytes of UTF-8."""

    host: str
    mpi: str  # the library's name and version
    protocol: str  # wire format
    package: str  # version of qafel_mpi
    experiment: str  # digest of the resolved experiment
    layout: str  # elements and digest of the tensors' names and shapes
    uplink: str  # codec, bits, payload bytes
    downlink: str
    model: str  # digest of x^0

    mark: str = ""  # what this rank has written beside the trace, for rank 0 to see; empty: nothing
    no_mark: str = ""  # why it could not

    def record(self) -> np.ndarray:
        out = np.zeros(1, dtype=CARD)
        for name in CARD.names or ():
            out[name] = getattr(self, name).encode()[:64]
        return out


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of SHA-256: enough to tell two configurations apart."""
    return hashlib.sha256(data).hexdigest()[:16]


def agree(comm: MPI.Intracomm, card: Card, *, out: Path, patience_s: float, backoff: Backoff) -> None:
    """Collective. Raises the same HandshakeError on every rank where any rank differs from rank 0.

    out: the trace; the first rank of each host leaves a mark beside it (card.mark), which rank 0 must see. Rank 0
    names the ranks it still waits for after every `patience_s`.
    """
    mine = card.record()
    verdict = np.zeros(1024, dtype=np.uint8)
    if comm.rank == 0:
        cards = _collect(comm, patience_s, backoff)
        text = _compare(mine, cards) or _shared(out, card.host, cards)
        data = np.frombuffer(text.encode()[: verdict.size], dtype=np.uint8)
        verdict[: data.size] = data
    else:
        comm.Send([mine.view(np.uint8), MPI.BYTE], 0, 2)
    request = comm.Ibcast([verdict, MPI.BYTE], 0)
    wait_until(
        request.Test,
        lambda: f"rank {comm.rank} waits for rank 0 to finish the handshake",
        patience_s=patience_s,
        backoff=backoff,
    )
    message = verdict.tobytes().rstrip(b"\0").decode(errors="replace")
    if message:
        raise HandshakeError(message)


def _collect(comm: MPI.Intracomm, patience_s: float, backoff: Backoff) -> np.ndarray:
    cards = np.zeros(comm.size, dtype=CARD)
    requests = [comm.Irecv([cards[r : r + 1].view(np.uint8), MPI.BYTE], r, 2) for r in range(1, comm.size)]
    missing = set(range(1, comm.size))

    def arrived() -> bool:
        for index in MPI.Request.Testsome(requests) or ():
            missing.discard(index + 1)
        return not missing

    def waits() -> str:
        some = ", ".join(str(r) for r in sorted(missing)[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return f"rank 0 waits for the handshake of rank {some}{more}"

    wait_until(arrived, waits, patience_s=patience_s, backoff=backoff)
    return cards


def _compare(mine: np.ndarray, cards: np.ndarray) -> str:
    for rank in range(1, cards.size):
        for name in FIELDS:
            ours, theirs = mine[0][name].decode(), cards[rank][name].decode()
            if ours != theirs:
                host = cards[rank]["host"].decode()
                return (
                    f"rank {rank} on {host} does not run what rank 0 runs: {name} is {theirs!r} there, "
                    f"{ours!r} on rank 0; install the same version and data on every host"
                )
    return ""


def _shared(out: Path, host: str, cards: np.ndarray) -> str:
    """Whether rank 0 sees what the other hosts' first ranks have written beside the trace."""
    for rank in range(1, cards.size):
        there, mark, no_mark = (cards[rank][name].decode() for name in ("host", "mark", "no_mark"))
        if no_mark or (mark and not is_seen(out, rank, mark)):
            why = f"rank {rank} can't write there: {no_mark}" if no_mark else f"{host} has another one"
            return (
                f"{out.parent} on {there} is not the folder of {host}: {why}; every rank writes its part of the "
                "trace there, so --out must lie on a file system that all hosts share"
            )
    return ""
