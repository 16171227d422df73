"""What a trace says of where it comes from."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from qafel_mpi.transport import placement

PACKAGES = ("qafel-mpi", "torch", "numpy", "mpi4py", "h5py", "numba")
SCHEDULER_PREFIXES = (
    "SLURM_JOB_",
    "SLURM_ARRAY_",
    "SLURM_STEP_",
    "SLURM_CLUSTER_NAME",
    "SLURM_NNODES",
    "SLURM_NODELIST",
    "SLURM_NTASKS",
    "SLURM_TASKS_PER_NODE",
    "SLURM_CPUS_PER_TASK",
    "SLURM_CPU_BIND",
    "SLURM_DISTRIBUTION",
    "SLURM_HINT",
    "SLURM_THREADS_PER_CORE",
    "SLURM_GPUS",
    "SLURM_RESTART_COUNT",
    "PBS_JOBID",
    "LSB_JOBID",
)
# Open MPI's, its launcher's, UCX's, libfabric's, MPICH's, Intel MPI's.
MPI_SETTINGS = ("OMPI_MCA_", "PRTE_MCA_", "UCX_", "FI_", "MPICH_", "MPIR_CVAR_", "I_MPI_")
# What Open MPI's launchers tell their ranks themselves: numbers, addresses and keys of this very job.
OF_THE_JOB = re.compile(
    r"OMPI_MCA_(PREFIXES|initial_wdir|num_procs|cpu_type|ess|ess_base_.*|pmix|shmem_RUNTIME_QUERY_hint"
    r"|orte_(?!tmpdir_base|abort).*)"
)
NETWORK_LIBRARY = re.compile(r"lib(ucp|fabric|ibverbs|psm2|cxi|portals)\b.*\.so")
UNKNOWN = "unknown"
CONTAINERS_FILES = ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf")  # what engines mount into a container
PACKAGE = Path(__file__).resolve().parents[1]
CONTAINER_ID = re.compile(r"(?:docker|libpod|containers?|crio|cri-containerd)[-/]([0-9a-f]{64})(?![0-9a-f])")


def provenance(command_line: list[str]) -> dict[str, Any]:
    """Host, processor, network, MPI, versions, scheduler, container, git state and command line, JSON-able."""
    commit, dirty = git_state()
    return {
        "command_line": " ".join(command_line),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": versions(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": platform.node(),
        "cpu": placement.cpu_model(),
        "memory_bytes": psutil.virtual_memory().total,
        "mpi_library": placement.mpi_library(),
        "interconnect": {
            "device": placement.mpi_device() or UNKNOWN,
            "settings": mpi_settings(os.environ),
            "network": network_devices(),
            "loaded": network_libraries(),
        },
        "container": container(os.environ),
        "scheduler": {k: v for k, v in sorted(os.environ.items()) if k.startswith(SCHEDULER_PREFIXES)},
    }


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = ""
    return found


@cache
def source_digest(package: Path = PACKAGE) -> str:
    """Tells two checkouts of one version apart: 16 hexadecimal digits of the SHA-256 of the package's sources."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("[!.]*.py")):
        found.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def git_state(package: Path = PACKAGE) -> tuple[str, bool | str]:
    """(commit, whether files differ from it) of the checkout that runs; new files in the package count.

    package: its folder. ("", "unknown") where it is no checkout, or git is not here to say so.
    """

    def git(*words: str) -> str:
        # In a container the checkout mostly belongs to somebody else: git would refuse to read it.
        command = ["git", "-c", "safe.directory=*", *words]
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    commit = ""
    try:
        if Path(git("rev-parse", "--show-toplevel")) != package.parent:
            return "", UNKNOWN  # installed inside somebody else's repository
        commit = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=no")
        return commit, bool(changed or git("ls-files", "--others", "--exclude-standard", "."))
    except (OSError, subprocess.SubprocessError):
        return commit, UNKNOWN


def mpi_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that tell the MPI library what to do: which transport, how to wait, how to map; empty: its defaults.

    What it has chosen no library says: Open MPI's tool interface (MPI_T) lists transports that are not in use. Then
    "device" is unknown; the host's hardware and what is loaded for it narrow it down.
    """
    return {
        k: v
        for k, v in sorted(environment.items())
        if k.startswith(MPI_SETTINGS) and not OF_THE_JOB.fullmatch(k)
    }


def network_devices(classes: Path = Path("/sys/class")) -> dict[str, str]:
    """Network hardware of this host -> its rate as the kernel says it, "" where it does not. Linux; else empty."""
    found = {}
    for port in sorted(classes.glob("infiniband/*/ports/*")):
        found[f"{port.parents[1].name}:{port.name}"] = _line(port / "rate")
    for device in sorted(classes.glob("net/*/device")):  # what has none is no hardware: lo, bridges, tunnels
        speed = _line(device.parent / "speed")
        found[device.parent.name] = f"{speed} Mbit/s" if speed.isdecimal() else ""  # -1: unknown
    return found


def network_libraries(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """Libraries of fast networks that the MPI library has loaded into this process. Nobody says that it uses them."""
    names = (line.rpartition("/")[2] for line in _text(maps).splitlines())
    return sorted({name for name in names if NETWORK_LIBRARY.match(name)})


def container(environment: Mapping[str, str], process: Path = Path("/proc/self")) -> str:
    """The container this process runs in: Docker's, Podman's or Kubernetes' id, Apptainer's image; "" for none."""
    for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"):
        if image := environment.get(name):
            return image
    # With its own cgroup namespace a container sees "/" there; the files mounted into it name it then. Elsewhere the
    # host's own mounts name every container that runs on it.
    mounts = (line.split() for line in _text(process / "mountinfo").splitlines())
    roots = "\n".join(fields[3] for fields in mounts if len(fields) > 4 and fields[4] in CONTAINERS_FILES)
    match = CONTAINER_ID.search(_text(process / "cgroup")) or CONTAINER_ID.search(roots)
    return match[1] if match else ""


def _line(path: Path) -> str:
    return _text(path).strip()


def _text(path: Path) -> str:
    """A file of the kernel's; "" where it can't be read (a link that is down refuses to tell its speed)."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
