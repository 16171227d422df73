"""Before the first step every rank shows rank 0 what it is about to run, and where; a mismatch is one clear error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from socket import gethostname
from time import time_ns

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.transport.placement import Placement
from qafel_mpi.transport.shared import is_seen, leave_mark, take_mark

ANSWER = 64  # bytes of an answer that are compared and shown
VERDICT = 1024  # bytes of a message


class HandshakeError(Exception):
    """Ranks that don't agree; the message names the rank, its host, the field and both values."""


def digest(data: bytes) -> str:
    """The first 16 hexadecimal digits of SHA-256: enough to tell two configurations apart."""
    return hashlib.sha256(data).hexdigest()[:16]


def agree(
    comm: MPI.Intracomm,
    answers: Mapping[str, str],
    *,
    hosts: Sequence[str],
    patience_s: float,
    backoff: Backoff,
    limit_s: float = float("inf"),
) -> None:
    """Collective. Raises the same HandshakeError on every rank where any rank's answers differ from rank 0's.

    answers: of the same names on every rank; texts, so that an error can show them, of which 64 bytes count: the
    caller hashes what is longer. hosts: on rank 0 every rank's. Rank 0 names the ranks it still waits for, and their
    hosts, after every `patience_s`. Raises WaitedTooLongError after limit_s.
    """
    record = np.dtype([(name, f"S{ANSWER}") for name in answers])
    mine = np.array([tuple(text.encode()[:ANSWER] for text in answers.values())], dtype=record)
    verdict = np.zeros(VERDICT, dtype=np.uint8)
    if comm.rank == 0:
        everyone = _collect(comm, mine, hosts, patience_s, backoff, limit_s)
        data = np.frombuffer(_compare(everyone, hosts).encode()[:VERDICT], dtype=np.uint8)
        verdict[: data.size] = data
    else:
        comm.Send([mine.view(np.uint8), MPI.BYTE], 0, 2)
    request = comm.Ibcast([verdict, MPI.BYTE], 0)
    wait_until(
        request.Test,
        # All others wait too; and while rank 0 waits for one of them, it says for which.
        lambda: (
            f"rank 1 on {gethostname()} waits for rank 0 to finish the handshake" if comm.rank == 1 else ""
        ),
        patience_s=patience_s,
        backoff=backoff,
        limit_s=limit_s,
    )
    if message := verdict.tobytes().rstrip(b"\0").decode(errors="replace"):
        raise HandshakeError(message)


def _collect(
    comm: MPI.Intracomm,
    mine: np.ndarray,
    hosts: Sequence[str],
    patience_s: float,
    backoff: Backoff,
    limit_s: float,
) -> np.ndarray:
    """On rank 0: every rank's answers, its own first."""
    everyone = np.zeros(comm.size, dtype=mine.dtype)
    everyone[:1] = mine
    requests = [comm.Irecv([everyone[r : r + 1].view(np.uint8), MPI.BYTE], r, 2) for r in range(1, comm.size)]
    missing = set(range(1, comm.size))

    def arrived() -> bool:
        for index in MPI.Request.Testsome(requests) or ():
            missing.discard(index + 1)
        return not missing

    def waits() -> str:
        some = ", ".join(f"{r} on {hosts[r]}" for r in sorted(missing)[:8])
        more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
        return f"rank 0 waits for the handshake of rank {some}{more}"

    wait_until(arrived, waits, patience_s=patience_s, backoff=backoff, limit_s=limit_s)
    return everyone


def _compare(everyone: np.ndarray, hosts: Sequence[str]) -> str:
    """Why the ranks don't run the same, or an empty string; names the first rank that differs, and other hosts."""
    for name in everyone.dtype.names or ():
        answers = everyone[name]
        others = np.flatnonzero(answers != answers[0])
        if not others.size:
            continue
        rank = int(others[0])
        more = list(dict.fromkeys(hosts[r] for r in others.tolist() if hosts[r] != hosts[rank]))
        too = f" (and it differs from rank 0's on {_some(more)})" if more else ""
        theirs, ours = (answers[r].decode(errors="replace") for r in (rank, 0))
        return (
            f"rank {rank} on {hosts[rank]} does not run what rank 0 on {hosts[0]} runs: {name} is {theirs!r} there, "
            f"{ours!r} on rank 0{too}; install the same version and data on every host"
        )
    return ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


def same_folder(comm: MPI.Intracomm, out: Path, place: Placement) -> None:
    """Collective. Raises HandshakeError on every rank where rank 0 does not see what another host's first rank
    writes beside the trace `out`. Rank 0 has made the folder."""
    mark, why_not = "", ""
    if comm.rank and place.local_rank == 0:
        mark = f"{place.host} {place.pid} {time_ns()}"
        why_not = leave_mark(out, comm.rank, mark)
    try:
        left = [json.loads(text) for text in gather_text(comm, json.dumps([place.host, mark, why_not]))]
        message = broadcast_text(comm, _not_shared(out, left))
    finally:
        if mark and not why_not:
            take_mark(out, comm.rank)
    if message:
        raise HandshakeError(message)


def _not_shared(out: Path, left: Sequence[tuple[str, str, str]]) -> str:
    """On rank 0: which host's mark it does not see, or an empty string. left: of each rank host, mark, why not."""
    for rank, (host, mark, why_not) in enumerate(left):
        if mark and (why_not or not is_seen(out, rank, mark)):
            here = left[0][0]
            why = f"rank {rank} can't write there: {why_not}" if why_not else f"{here} has another one"
            return (
                f"{out.parent} on {host} is not the folder of {here}: {why}; every rank writes its part of the "
                "trace there, so --out must lie on a file system that all hosts share"
            )
    return ""
