"""Help texts that are wrapped to the terminal's width."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer


class App(typer.Typer):
    """A Typer app without the line breaks inside a docstring's paragraphs, some of which rich would keep."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        def register(function: Any) -> Any:
            described = {"help": unwrapped(function.__doc__ or "")} | options
            return super(App, self).command(name, **described)(function)

        return register


def unwrapped(text: str) -> str:
    """A docstring with one line per paragraph.

    >>> unwrapped("One\\n    two.\\n\\n    Three.")
    'One two.\\n\\nThree.'
    """
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))
