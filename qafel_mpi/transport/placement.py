"""Which host, cores and GPU a rank has: what the launcher has bound stays, the rest is shared fairly."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import psutil
from mpi4py import MPI

from qafel_mpi.transport.assignment import Given, Gpu, Share, assign
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.transport.topology import topology

CUDA = 0  # MPIX_GPU_SUPPORT_CUDA
THREAD_LEVELS = {
    MPI.THREAD_SINGLE: "single",
    MPI.THREAD_FUNNELED: "funneled",
    MPI.THREAD_SERIALIZED: "serialized",
    MPI.THREAD_MULTIPLE: "multiple",
}


class PlacementError(Exception):
    """Ranks that would share GPUs without permission, or find none where others do; the message names the hosts."""


@dataclass(frozen=True)
class Placement:
    """Where one rank runs."""

    rank: int
    host: str
    pid: int
    local_rank: int
    local_ranks: int  # ranks on this host
    cores: tuple[int, ...]  # logical CPUs that this rank may use
    threads: int  # compute threads: its fair share of the host's cores, at least 1
    bound_by: str  # "launcher", "qafel-mpi" (fair share) or "none" (more ranks than cores)
    gpu: int | None  # index among the visible GPUs, None: compute on the CPU
    gpu_ranks: int = 0  # ranks that compute on that GPU
    hosts: tuple[str, ...] = ()  # on rank 0: every rank's
    shared: tuple[str, ...] = ()  # on rank 0: of every host where ranks share GPUs, a text that names it
    blind: tuple[
        str, ...
    ] = ()  # likewise of hosts whose ranks find no GPU, where one is expected: see `place`

    @property
    def crowded(self) -> bool:
        """Ranks on this host outnumber the cores that they may use."""
        return self.bound_by == "none"

    @property
    def remarks(self) -> list[str]:
        """On rank 0: what the user should know of GPUs, a sentence each."""
        shared = [some_hosts(self.shared)] if self.shared else []
        return shared + ([f"{some_hosts(self.blind)}; they compute on the CPU"] if self.blind else [])


def place(
    comm: MPI.Intracomm, *, gpus: Sequence[Gpu] = (), share_gpus: bool = True, bind: bool = True
) -> Placement:
    """Collective. Decide this rank's cores and GPU, and bind the process to its cores (see `assign`).

    gpus: those that this process sees. share_gpus: whether two ranks may compute on one; where not, and on some
    host they would have to, PlacementError is raised on every rank alike; so it is where some ranks find a GPU and
    others none (a torch without CUDA, a driver that is dead). A job without any GPU runs; share_gpus=False lets it
    say so.
    """
    given = Given(given_cores(), tuple(gpus), computes=comm.rank > 0 or comm.size == 1)
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    try:
        local_rank, local_ranks = node.rank, node.size
        everyone = [Given.read(text) for text in gather_text(node, given.write())]
        shares = assign(everyone, topology(gpu.address for own in everyone for gpu in own.gpus))
        answer = json.loads(broadcast_text(node, json.dumps([asdict(share) for share in shares])))[local_rank]
    finally:
        node.Free()
    mine = Share(**answer | {"cores": tuple(answer["cores"])})
    shared = tuple(filter(None, gather_text(comm, sharing(shares))))
    blind = tuple(filter(None, gather_text(comm, seeing_none(everyone))))
    found = any(gather_text(comm, "GPU" if gpus and given.computes else ""))
    refusal = "" if share_gpus else _refusal(shared, blind if found else ())
    if refusal := broadcast_text(comm, refusal):
        raise PlacementError(refusal)
    if bind and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, mine.cores)
    return Placement(
        comm.rank,
        socket.gethostname(),
        os.getpid(),
        local_rank,
        local_ranks,
        mine.cores,
        1 if mine.bound_by == "none" else len(mine.cores),
        mine.bound_by,
        mine.gpu,
        mine.gpu_ranks,
        tuple(gather_text(comm, socket.gethostname())),
        shared,
        blind if found or not share_gpus else (),
    )


def _refusal(shared: Sequence[str], blind: Sequence[str]) -> str:
    """Why ranks may not run as they are placed; empty where they may."""
    if shared:
        return (
            f"{some_hosts(shared)}, and transport.share_gpus is false: start fewer ranks there (a client rank for "
            "each GPU), or set transport.share_gpus=true"
        )
    if blind:
        return (
            f"{some_hosts(blind)}, others do, and transport.share_gpus is false: check the driver, torch's CUDA and "
            "CUDA_VISIBLE_DEVICES there, or set transport.share_gpus=true to compute on the CPU"
        )
    return ""


def sharing(shares: Sequence[Share]) -> str:
    """ "h2: 3 ranks share 2 GPUs"; empty where no two do. shares: of this host, [] but on its first rank."""
    ranks = [own for own in shares if own.gpu is not None]
    if all(own.gpu_ranks == 1 for own in ranks):
        return ""
    number = round(sum(1 / own.gpu_ranks for own in ranks))
    return f"{socket.gethostname()}: {len(ranks)} ranks share {number} GPU{'s' if number > 1 else ''}"


def seeing_none(given: Sequence[Given]) -> str:
    """ "h2: 3 ranks see no GPU": those that compute; empty where each sees one. given: as shares in `sharing`."""
    ranks = sum(own.computes and not own.gpus for own in given)
    return f"{socket.gethostname()}: {ranks} rank{'s see' if ranks > 1 else ' sees'} no GPU" if ranks else ""


def some_hosts(texts: Sequence[str]) -> str:
    """Texts about hosts, as one: the first three.

    >>> some_hosts(["a", "b", "c", "d"])
    'a; b; c; and so on 1 more host'
    """
    more = len(texts) - 3
    rest = [f"and so on {more} more host{'s' if more > 1 else ''}"] if more > 0 else []
    return "; ".join([*texts[:3], *rest])


def cpu_ranges(cores: Sequence[int]) -> str:
    """Cores as the kernel writes them: "0-3,8"."""
    parts: list[str] = []
    cores = sorted(cores)
    i = 0
    while i < len(cores):
        j = i
        while j + 1 < len(cores) and cores[j + 1] == cores[j] + 1:
            j += 1
        parts.append(str(cores[i]) if i == j else f"{cores[i]}-{cores[j]}")
        i = j + 1
    return ",".join(parts)


def mpi_library() -> str:
    """The first line of what the MPI library says of itself."""
    line = MPI.Get_library_version().splitlines()[0].split(", package")[0].rstrip("\0")
    return " ".join(line.split())


def mpi_device() -> str:
    """The communication device that the MPI library says it was built with ("ch4:ofi"); "" if it names none."""
    for line in MPI.Get_library_version().replace("\0", "").splitlines():
        if line.lower().startswith("mpich device"):
            return line.partition(":")[2].strip()
    return ""


def mpi_standard() -> str:
    major, minor = MPI.Get_version()
    return f"{major}.{minor}"


def thread_level() -> str:
    return THREAD_LEVELS.get(MPI.Query_thread(), "unknown")


def gpu_aware() -> bool | None:
    """Whether the library takes CUDA buffers: True or False where it says so, None where it can't be asked.

    Open MPI, MPICH and their kin have MPIX_Query_cuda_support, which Open MPI 5 answers for this very process (4: as
    it was built); Cray's MPICH has MPIX_GPU_query_support. Neither touches a GPU.
    """
    library = _mpi_functions()
    if hasattr(library, "MPIX_Query_cuda_support"):
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):
        supported = ctypes.c_int(0)
        failed = library.MPIX_GPU_query_support(CUDA, ctypes.byref(supported))
        return None if failed else bool(supported.value)
    return None


def _mpi_functions() -> Any:
    """What is loaded already: a name is looked up in mpi4py's module and in the libraries that it depends on."""
    return ctypes.CDLL(MPI.__file__)


def cpu_model() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def resident_bytes() -> int:
    """What this process has in memory now."""
    return int(psutil.Process().memory_info().rss)


def proportional_bytes() -> int | None:
    """What this process has in memory, a page that n processes share as 1/n of it; None where Linux does not say.

    Of its own and of shared memory, but not of files: processes of other jobs share the pages of libraries, so what
    falls to this one changes whenever one of those starts or ends.
    """
    try:
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
            found = dict(line.split(":", 1) for line in lines if line.startswith("Pss_"))
            return sum(1024 * int(found[kind].split()[0]) for kind in ("Pss_Anon", "Pss_Shmem"))
    except (OSError, KeyError):
        return None


def peak_memory_bytes() -> int:
    """The largest resident set this process has had."""
    try:
        import resource
    except ImportError:  # not a POSIX system
        return resident_bytes()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@cache
def given_cores() -> tuple[int, ...]:
    """The logical CPUs that the launcher lets this process use, before it is bound to a part of them."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
