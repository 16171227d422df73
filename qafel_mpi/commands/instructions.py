"""Which instructions torch, oneDNN, MKL and numba may use: told by variables, before torch is imported.

A matrix product of wider instructions adds in another order. Ranks on processors of different generations, or a
replay on another machine, give the same bits at best where all are held down to instructions that all have.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from qafel_mpi.config_text import ConfigError


class Instructions(StrEnum):
    """The narrowest that is in use, and the next."""

    AVX2 = "avx2"
    AVX512 = "avx512"


VARIABLES: dict[Instructions, dict[str, str]] = {
    Instructions.AVX2: {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "NUMBA_CPU_NAME": "haswell",
    },
    Instructions.AVX512: {
        "ATEN_CPU_CAPABILITY": "avx512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "NUMBA_CPU_NAME": "skylake-avx512",
    },
}
NEEDS = {
    Instructions.AVX2: {"avx2", "fma"},
    Instructions.AVX512: {"avx512f", "avx512bw", "avx512vl", "avx512dq"},
}

HoldDown = Annotated[
    Instructions | None,
    typer.Option(
        "--instructions",
        help="Hold the arithmetic down to these instructions, on every rank: for runs whose bits are to be had again "
        "on another processor. Default: what each processor has.",
    ),
]


def require(wanted: Instructions | None) -> None:
    """Raise ConfigError where this processor lacks the instructions."""
    if wanted is not None and wanted not in had_here():
        raise ConfigError(
            [f"--instructions {wanted}: this host's processor lacks some of them; leave it out"]
        )


def hold_down(wanted: Instructions | None) -> None:
    """Set the variables, for this process, before torch is imported: it reads some of them once."""
    use({} if wanted is None else VARIABLES[wanted])


def use(variables: Mapping[str, str]) -> None:
    os.environ.update(variables)


def had_here(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[Instructions]:
    """Those that this host's processor has, narrowest first, as far as Linux says so."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    line = next((line for line in text.splitlines() if line.startswith("flags")), "")
    flags = set(line.partition(":")[2].split())
    return [one for one in Instructions if NEEDS[one] <= flags]


def of_the_run(trace: Path) -> dict[str, str]:
    """The variables with which a replay of a trace computes as its client ranks did, as far as variables can do that.

    Where the run used narrower instructions than this processor has, those that hold it down.
    """
    from qafel_mpi.trace.reader import open_trace
    from qafel_mpi.trace.shards import TraceError

    try:
        with open_trace(trace) as opened:
            groups: Sequence[Mapping[str, Any]] = json.loads(str(opened.attributes.get("arithmetic", "[]")))
    except (TraceError, ValueError):
        return {}  # whoever reads the trace says what is wrong with it
    return variables_for(groups, had_here())


def variables_for(groups: Sequence[Mapping[str, Any]], here: Sequence[Instructions]) -> dict[str, str]:
    """groups: the attribute arithmetic. here: what this processor has.

    >>> variables_for([{"isa": "AVX2", "environment": {}}], [Instructions.AVX2])
    {}
    >>> variables_for([{"isa": "AVX2", "environment": {}}], list(Instructions))["ONEDNN_MAX_CPU_ISA"]
    'AVX2'
    """
    if not groups:
        return {}
    last = groups[-1]  # of a client rank, where there are any
    given = {str(name): str(value) for name, value in last.get("environment", {}).items()}
    if not given and last.get("isa") == "AVX2" and Instructions.AVX512 in here:
        return VARIABLES[Instructions.AVX2]
    return given
