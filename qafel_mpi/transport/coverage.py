"""What the checksums of a run's messages cover: `transport.checksum`, and what its "auto" comes to on these ranks."""

from __future__ import annotations

from typing import Literal

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport import placement

Coverage = Literal["full", "header"]


def coverage(comm: MPI.Intracomm, wanted: Literal["auto", "full", "header"], *, local_ranks: int) -> Coverage:
    """Collective: what is wanted, or, where that is "auto", the same answer on every rank.

    Headers alone where all ranks share one host's memory, which no network touches, and where MPI takes payloads from
    GPUs on every rank: a checksum would bring them to the host first. Else payloads too. local_ranks: on this host.
    """
    if wanted != "auto":
        return wanted
    alone = np.array([local_ranks == comm.size or placement.gpu_aware() is True])
    everywhere = np.empty(1, dtype=np.bool_)
    comm.Allreduce(alone, everywhere, MPI.LAND)
    return "header" if everywhere[0] else "full"
