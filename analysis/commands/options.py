"""What the commands share: options, and how they fail."""

from __future__ import annotations

import inspect
import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping
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


def _share(value: float | None) -> float | None:
    """Raises BadParameter where an accuracy is no share of 1: no run would ever reach it."""
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter(f"{value:g} is no share of 1, such as 0.85")
    return value


def _finite(value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value:g} is no number that a loss can reach")
    return value


_FORMATS = {
    "as_json": "--json",
    "as_csv": "--csv",
    "as_latex": "--latex",
    "as_markdown": "--markdown",
    "in_words": "--sentence",
}


def one_format(ctx: typer.Context, param: typer.CallbackParam, value: bool) -> bool:
    """Raises BadParameter where two options choose what is printed."""
    others = [name for key, name in _FORMATS.items() if key != param.name and ctx.params.get(key)]
    if value and others:
        raise typer.BadParameter(f"choose one format, not {others[0]} and {_FORMATS[str(param.name)]}")
    return value


AsJson = Annotated[bool, typer.Option("--json", callback=one_format, help="Print JSON instead of a table.")]
AsCsv = Annotated[bool, typer.Option("--csv", callback=one_format, help="Print CSV instead of a table.")]
AsLatex = Annotated[
    bool, typer.Option("--latex", callback=one_format, help="Print a LaTeX (booktabs) table.")
]
AsMarkdown = Annotated[bool, typer.Option("--markdown", callback=one_format, help="Print a Markdown table.")]
Accuracy = Annotated[
    float | None,
    typer.Option(
        "--target-accuracy",
        callback=_share,
        help="Count to the first evaluation at this accuracy, instead of the run's own target.",
    ),
]
Loss = Annotated[
    float | None,
    typer.Option(
        "--target-loss", callback=_finite, help="Count to the first evaluation at or below this loss."
    ),
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


def useless(options: Mapping[str, bool], beside: str) -> None:
    """Raises BadParameter where one of these options was given, by name, which mean nothing beside another."""
    if given := [name for name, on in options.items() if on]:
        raise typer.BadParameter(f"{beside} takes no {' and no '.join(given)}")


def refuse(option: str, out: Path, inputs: Iterable[Path] = ()) -> None:
    """Raises BadParameter where the file would take the place of a trace or of one that is read."""
    if why := in_the_way(out, inputs):
        raise typer.BadParameter(f"{option} {why}")


def say(messages: Iterable[object]) -> None:
    """On stderr, one line each."""
    for message in messages:
        print(f"qafel-analysis: {message}", file=sys.stderr)
