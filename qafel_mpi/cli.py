"""The command `qafel-mpi`: understand the line, call one driver, print its result, give an exit code.

mpi4py, h5py and torch are imported inside the commands that need them: help and lists are instant.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qafel_mpi import cli_bench, cli_jobs, experiments
from qafel_mpi import cli_job as job
from qafel_mpi import cli_run as launch
from qafel_mpi import cli_show as show
from qafel_mpi import cli_suite as suites
from qafel_mpi.cli_job import ExitCode

if TYPE_CHECKING:
    pass

app = typer.Typer(
    name="qafel-mpi",
    help="Asynchronous federated learning with quantized messages in both directions, over MPI.",
    epilog="Examples:\n\n"
    "  qafel-mpi list\n\n"
    "  qafel-mpi run digits\n\n"
    "  mpirun -n 4 qafel-mpi run digits --out runs/a.h5\n\n"
    "Each command has its own: qafel-mpi run --help",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
data = typer.Typer(help="Data sets: fetch them.", no_args_is_help=True)
app.add_typer(data, name="data")
app.add_typer(cli_bench.bench, name="bench")
app.add_typer(cli_jobs.jobs, name="jobs")


Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Override a setting; may be repeated."),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="Where the data sets lie. Default: $QAFEL_DATA_DIR, else ~/.cache/qafel_mpi."
    ),
]


def main() -> None:
    """The console script. Under mpirun only rank 0 speaks, and every rank ends with the same code."""
    job.ask_for_threads()
    rank = job.launcher_rank()
    if rank:
        job.mute()
    try:
        with job.all_ranks_end(None):  # what is raised here is raised on every rank alike
            app()
    except SystemExit as end:
        if end.code == ExitCode.USAGE and rank is not None:
            job.leave_together()
        raise


@app.callback(invoke_without_command=True)
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True)
    ] = False,
) -> None:
    if show_version:
        print(f"qafel-mpi {version('qafel-mpi')}")
        raise typer.Exit


# --- run --------------------------------------------------------------------------------------------


@app.command(
    epilog="Examples:\n\n"
    "  qafel-mpi run digits                 [dim]one process, virtual clock[/dim]\n\n"
    "  mpirun -n 4 qafel-mpi run digits --set server.buffer_size=20 --out runs/a.h5\n\n"
    "  mpirun -n 4 qafel-mpi run digits --set algorithm=fedbuff --seed 1 --target-accuracy 0.9\n\n"
    "  qafel-mpi run my.toml --set task.partition.alpha=0.1 --set uplink.codec=affine\n\n"
    "Exit codes: 0 done, 2 bad usage or data, 3 failed, 4 target not reached (--require-target), "
    "75 interrupted.",
)
def run(
    name: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="A name from `qafel-mpi list`, or a TOML file.")
    ],
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The run is a function of it.")] = None,
    variant: Annotated[
        str | None, typer.Option(metavar="NAME", help="One of the experiment's variants.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The trace. Default: runs/EXPERIMENT-ALGORITHM-seedN.h5."),
    ] = None,
    target_accuracy: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Stop when the test accuracy reaches this.")
    ] = None,
    require_target: Annotated[
        bool, typer.Option("--require-target", help="Exit with 4 if the target is not reached.")
    ] = False,
    data_dir: DataDir = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older trace.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Run one experiment and write its trace.

    Under mpirun, rank 0 is the server and the other ranks are its clients. Without it one process runs the
    experiment on the virtual clock.
    """
    settings = list(overrides or [])
    settings += [f"seed={seed}"] if seed is not None else []
    settings += [f"stop.accuracy={target_accuracy!r}"] if target_accuracy is not None else []
    with job.Interrupt() as interrupted:  # from here on: torch and MPI take seconds to load
        comm = job.world()
        plan = job.from_rank_0(
            comm, lambda: launch.plan(name, settings, variant, out, data_dir, overwrite, alone=comm is None)
        )
        here = data_dir or launch.own_data_dir() or Path(plan["data_dir"])
        with job.all_ranks_end(comm):
            result = launch.drive(plan, comm, here, interrupted)
            if comm is None or comm.rank == 0:
                print(show.summary_json(result) if as_json else show.summary(result))
    job.leave(launch.exit_code(result, require_target))


@app.command(
    epilog="Examples:\n\n  mpirun -n 4 qafel-mpi suite digits --seeds 0-2 --out runs/digits\n\n"
    "  mpirun -n 3 qafel-mpi suite mushrooms-qsgd --seeds 0-4 --out runs/mushrooms\n\n"
    "  qafel-mpi suite celeba-grid --seeds 0,1,2 --out runs/grid --show     [dim]what is left[/dim]\n\n"
    "  qafel-mpi suite celeba-grid --seeds 3 --variant fedbuff --out runs/grid",
)
def suite(
    name: Annotated[
        str, typer.Argument(metavar="SUITE", help="An experiment with variants, or a TOML file of one.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="One trace a run: DIR/VARIANT-seedN.h5.")],
    seeds: Annotated[str, typer.Option(metavar="LIST", help="0-4, or 0,3,7.")] = "0",
    only: Annotated[
        list[str] | None,
        typer.Option("--variant", metavar="NAME", help="Only this variant; may be repeated."),
    ] = None,
    overrides: Overrides = None,
    data_dir: DataDir = None,
    pick: Annotated[
        int | None,
        typer.Option(
            "--run", min=0, metavar="N", help="Only run number N, from 0: what a task of a job array does."
        ),
    ] = None,
    require_target: Annotated[
        bool, typer.Option("--require-target", help="Exit with 4 if a run does not reach its target.")
    ] = False,
    show_only: Annotated[
        bool, typer.Option("--show", help="Show what is done and what is left, and run nothing.")
    ] = False,
) -> None:
    """Run an experiment with all its variants and seeds; go on where an earlier call stopped.

    A run whose trace is there and complete, with the same settings, is done.
    """
    with job.Interrupt() as interrupted:
        comm = job.world()
        chosen, settings = list(only or []), list(overrides or [])
        if show_only:
            plan = job.from_rank_0(
                comm, lambda: suites.look(name, seeds, chosen, settings, out, alone=comm is None)
            )
            if comm is None or comm.rank == 0:
                print(plan["overview"])
            return
        plan = job.from_rank_0(comm, lambda: {"data_dir": launch.data_folder(data_dir)})
        here = data_dir or launch.own_data_dir() or Path(plan["data_dir"])
        with job.all_ranks_end(comm):
            code = suites.run(
                name, seeds, chosen, settings, out, comm, here, interrupted, require_target, pick
            )
    job.leave(code)


# --- list, info, data, merge ------------------------------------------------------------------------

# What to look for in the data folder: the list must not take the seconds that loading torch takes.
DATA_FILES = {
    "mushrooms": ("mushrooms.libsvm", "mushrooms.txt"),
    "fashion-mnist": ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    "celeba": ("celeba", "img_align_celeba"),
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
}
SYSTEM_DATA = Path("/usr/share/datasets")


@app.command("list", epilog="Example:\n\n  qafel-mpi list | grep cifar10")
def list_() -> None:
    """List the named experiments, one a line; "needs data" marks those whose data set is not here."""
    names = experiments.names()
    width = max(map(len, names))
    for name in names:
        tables = experiments.tables(name)
        dataset = tables.get("task", {}).get("dataset", "digits")
        needs = "" if _is_here(dataset) else f" [needs data: {dataset}]"
        variants = f" [{len(tables['variants'])} variants]" if "variants" in tables else ""
        print(f"{name:<{width}}  {tables.get('description', '')}{variants}{needs}")


def _is_here(dataset: str) -> bool:
    folder = launch.own_data_dir() or launch.cache()
    places = (folder, folder / dataset, SYSTEM_DATA / dataset)
    files = DATA_FILES.get(dataset)
    return files is None or any((place / file).exists() for place in places for file in files)


@app.command(
    epilog="Examples:\n\n  qafel-mpi info\n\n"
    "  mpirun -n 4 qafel-mpi info           [dim]what each rank of a job would get[/dim]\n\n"
    "  srun -N 2 -n 8 qafel-mpi info --json",
)
def info(as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False) -> None:
    """Show each rank's host, cores and GPU, and what the MPI library offers."""
    from mpi4py import MPI

    from qafel_mpi.drivers.facts import host_facts, hosts, rank_facts
    from qafel_mpi.drivers.provenance import provenance

    comm = job.world() or MPI.COMM_SELF
    with job.all_ranks_end(comm):
        ranks = job.to_rank_0(comm, rank_facts(comm))
        machines = job.to_rank_0(comm, host_facts())
        if comm.rank == 0:
            about = {"ranks": ranks, **provenance(sys.argv), "hosts": hosts(machines)}
            print(json.dumps(about, indent=1) if as_json else show.table(ranks))


@data.command(
    epilog="Examples:\n\n  qafel-mpi data fetch mushrooms\n\n"
    "  qafel-mpi data fetch cifar10 --to /scratch/data --mirror http://mirror.example/cifar10"
)
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="mushrooms, fashion-mnist or cifar10.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Default: $QAFEL_DATA_DIR, else ~/.cache/qafel_mpi."),
    ] = None,
    mirror: Annotated[
        str | None, typer.Option(metavar="URL", help="Take the same files from here; they are checked.")
    ] = None,
) -> None:
    """Download a data set: resumed where it stopped, and checked."""
    from qafel_mpi.tasks.fetch import fetch as fetch_files

    with show.download() as progress:
        folder = fetch_files(
            name, to or launch.own_data_dir() or launch.cache(), base_url=mirror, progress=progress
        )
    print(folder)


@app.command(
    epilog="Examples:\n\n  qafel-mpi merge runs/a.shards\n\n  qafel-mpi merge runs/a.shards --out rescued.h5"
)
def merge(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="The folder of shards, NAME.shards.", exists=True, file_okay=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The trace. Default: NAME.h5 beside the folder.")
    ] = None,
) -> None:
    """Make the trace file of a run that was cut short, from all that its ranks had written."""
    from qafel_mpi.trace.merge import merge as merge_shards

    merged = merge_shards(directory, out)
    print(f"{merged.path}: {', '.join(f'{rows:,} {table}' for table, rows in merged.rows.items())}")
    for shard, size in merged.lost.items():
        print(f"{shard}: the last {size} bytes were cut off by the crash and are left out", file=sys.stderr)
