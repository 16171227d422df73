"""The help of both commands: every command and option has one, in whole sentences, for any width."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import typer
from qafel_analysis.commands.app import app as analysis
from typer.testing import CliRunner

from qafel_mpi.commands.app import app
from qafel_mpi.commands.help import unwrapped


def commands(command, name: str) -> Iterator[tuple[str, object]]:
    """Every command below this one, with its full name."""
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


ALL = dict(
    [
        *commands(typer.main.get_command(app), "qafel-mpi"),
        *commands(typer.main.get_command(analysis), "qafel-analysis"),
    ]
)


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_says_what_it_does_in_whole_sentences(name):
    command = ALL[name]
    assert command.help.split("\n")[0].endswith("."), command.help
    for parameter in command.params:
        assert parameter.help, f"{name}: {parameter.name}"
        assert parameter.help[-1] in ".`)", f"{name} {parameter.name}: {parameter.help}"


def test_no_paragraph_keeps_the_line_breaks_of_its_source():
    for name, command in ALL.items():
        paragraphs = command.help.split("\n\n")
        assert not any("\n" in paragraph for paragraph in paragraphs), name


def test_a_paragraph_is_wrapped_to_the_terminal():
    shown = CliRunner().invoke(app, ["run", "--help"], env={"COLUMNS": "60"}).stdout
    lines = [line.strip() for line in shown.splitlines()]
    begin = lines.index("Under mpirun, rank 0 is the server and the other ranks are")
    assert lines[begin + 1].startswith("its clients. Without it")
    assert unwrapped("A\n    b.\n\n    C\n    d.") == "A b.\n\nC d."
