"""The command `info`: what each rank of a job would get, and what the MPI library offers."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from qafel_mpi.commands import process as job
from qafel_mpi.commands import show

EXAMPLES = (
    "Examples:\n\n  qafel-mpi info\n\n"
    "  mpirun -n 4 qafel-mpi info           [dim]what each rank of a job gets[/dim]\n\n"
    "  srun -N 2 -n 8 qafel-mpi info --json"
)


def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Show each rank's host, cores and GPU, and what the MPI library offers."""
    from mpi4py import MPI

    from qafel_mpi.drivers.facts import host_facts, hosts, rank_facts
    from qafel_mpi.drivers.provenance import provenance

    with job.all_ranks_end():
        comm = job.world() or MPI.COMM_SELF
        ranks = job.to_rank_0(comm, rank_facts(comm))
        machines = job.to_rank_0(comm, host_facts())
        if comm.rank == 0:
            about = {"ranks": ranks, **provenance(sys.argv), "hosts": hosts(machines)}
            print(json.dumps(about, indent=1) if as_json else show.table(ranks))
