"""Which host, cores and GPU a rank has: what the launcher has bound stays, the rest is shared fairly."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
from mpi4py import MPI

THREAD_LEVELS = {
    MPI.THREAD_SINGLE: "single",
    MPI.THREAD_FUNNELED: "funneled",
    MPI.THREAD_SERIALIZED: "serialized",
    MPI.THREAD_MULTIPLE: "multiple",
}


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

    @property
    def crowded(self) -> bool:
        """Ranks on this host outnumber the cores that they may use."""
        return self.bound_by == "none" and self.local_ranks > len(self.cores)


def place(comm: MPI.Intracomm, *, gpus: int, bind: bool = True) -> Placement:
    """Collective. Decide this rank's cores and GPU, and bind the process to its cores.

    gpus: how many this process sees; ranks take them round robin by node-local rank, so that ranks beyond
    their number share. A launcher that left each rank with part of the host's cores (SLURM, mpirun --bind-to)
    has decided already. Otherwise each rank gets an equal slice, or all cores where ranks outnumber them.
    """
    node = comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank)
    try:
        local_rank, local_ranks = node.rank, node.size
    finally:
        node.Free()
    allowed = sorted(_affinity())
    host_cores = os.cpu_count() or 1
    if len(allowed) < host_cores and local_ranks > 1:
        cores, bound_by = tuple(allowed), "launcher"
    elif local_ranks > len(allowed):
        cores, bound_by = tuple(allowed), "none"
    else:
        cores, bound_by = share(allowed, local_rank, local_ranks), "qafel-mpi"
        if bind and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, cores)
    threads = 1 if bound_by == "none" else len(cores)
    gpu = local_rank % gpus if gpus else None
    return Placement(
        comm.rank,
        socket.gethostname(),
        os.getpid(),
        local_rank,
        local_ranks,
        cores,
        threads,
        bound_by,
        gpu,
    )


def share(cores: Sequence[int], local_rank: int, local_ranks: int) -> tuple[int, ...]:
    """The slice of `cores` that is local_rank's when they are divided as evenly as can be.

    >>> [share(range(8), r, 3) for r in range(3)]
    [(0, 1), (2, 3, 4), (5, 6, 7)]
    """
    n = len(cores)
    return tuple(cores[local_rank * n // local_ranks : (local_rank + 1) * n // local_ranks])


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
    """Whether the library takes device buffers: True or False where it says so, None where it can't be asked.

    Open MPI lists its accelerator support among its capabilities; MPICH answers through an environment
    setting at start-up and can't be asked without a call that may crash.
    """
    text = MPI.Get_library_version().lower()
    if "open mpi" in text:
        info = MPI.COMM_WORLD.Get_info()
        try:
            memory_kinds = info.Get("mpi_memory_alloc_kinds") or ""
        finally:
            info.Free()
        return any(kind in memory_kinds for kind in ("cuda", "rocm", "level_zero"))
    return None


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


def peak_memory_bytes() -> int:
    """The largest resident set this process has had."""
    info = psutil.Process().memory_info()
    try:
        import resource
    except ImportError:  # not a POSIX system
        return int(info.rss)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))
