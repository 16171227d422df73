"""What the commands share: options, and how they fail."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from qafel_analysis.read.rows import Target

from qafel_mpi.outputs import in_the_way

Runs = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN.h5...", help="Trace files or folders of shards (RUN.shards).", show_default=False
    ),
]
Accuracy = Annotated[
    float | None,
    typer.Option(
        "--target-accuracy",
        help="Count to the first evaluation at this accuracy, instead of the run's own target.",
    ),
]
Loss = Annotated[
    float | None, typer.Option("--target-loss", help="Count to the first evaluation at or below this loss.")
]
NOTHING_READ = 2


class App(typer.Typer):
    """A Typer app without the line breaks inside a docstring's paragraphs, some of which rich would keep."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        def register(function: Any) -> Any:
            paragraphs = inspect.cleandoc(function.__doc__ or "").split("\n\n")
            described = {"help": "\n\n".join(" ".join(part.split()) for part in paragraphs)} | options
            return super(App, self).command(name, **described)(function)

        return register


EXIT_CODES = (
    "Exit codes: 0 done; 2 bad usage, or none of the files could be read. A file that can't be read is skipped, "
    "and stderr says why."
)


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["Examples:", *(f"  {line}" for line in lines), EXIT_CODES])


def expanded(word: str) -> str:
    """A word of the command line with its ~ expanded: shells leave that in `--out=~/a.html` as it is."""
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    return option + equals + (os.path.expanduser(value) if value.startswith("~") else value)


def target_of(accuracy: float | None, loss: float | None) -> Target | None:
    """None: the experiment's own."""
    return Target(accuracy, loss) if accuracy is not None or loss is not None else None


def refuse(option: str, out: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises BadParameter where the file would take the place of a trace or of one that is read."""
    if why := in_the_way(out, inputs):
        raise typer.BadParameter(f"{option} {why}")


def say(messages: Iterable[object]) -> None:
    """On stderr, one line each."""
    for message in messages:
        print(f"qafel-analysis: {message}", file=sys.stderr)
