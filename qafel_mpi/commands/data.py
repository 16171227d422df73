"""The commands `data`: fetch data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qafel_mpi.commands import run as launch
from qafel_mpi.commands import show
from qafel_mpi.commands.help import App

data = App(help="Download data sets.", no_args_is_help=True)


@data.command(
    epilog="Examples:\n\n  qafel-mpi data fetch mushrooms\n\n"
    "  qafel-mpi data fetch cifar10 --to /scratch/data --mirror http://mirror.example/cifar10"
)
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of mushrooms, fashion-mnist, cifar10.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Target folder. Default: $QAFEL_DATA_DIR, else ~/.cache/qafel_mpi."),
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Download the same files from this server. Their checksums are verified."
        ),
    ] = None,
) -> None:
    """Download a data set and verify its checksums. An interrupted download is resumed."""
    from qafel_mpi.tasks.fetch import fetch as fetch_files

    with show.download() as progress:
        folder = fetch_files(
            name, to or launch.own_data_dir() or launch.cache(), base_url=mirror, progress=progress
        )
    print(folder)
