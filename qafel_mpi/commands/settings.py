"""The command `settings`: what can be set in an experiment. docs/settings.md shows the same list."""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qafel_mpi.config_text import ConfigError

if TYPE_CHECKING:
    from qafel_mpi.config_listing import Section, Setting

EXAMPLES = (
    "Examples:\n\n  qafel-mpi settings                   [dim]all of them[/dim]\n\n"
    "  qafel-mpi settings uplink            [dim]those of one section[/dim]\n\n"
    "  qafel-mpi settings task.partition.alpha\n\n"
    "  qafel-mpi settings clock --json"
)
CLOCKS = {"both": "both clocks", "wall": "wall clock", "virtual": "virtual clock"}
WIDEST = 100  # columns
_ITEM = re.compile(r"\n(?=- )")


def settings(
    section: Annotated[
        str | None, typer.Argument(metavar="SECTION", help="Only this section, or this one setting.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the settings as JSON.")] = False,
) -> None:
    """List the settings of an experiment: default, values, clock and meaning."""
    from qafel_mpi.config_listing import chosen

    try:
        found = chosen(section)
    except ConfigError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from None
    if as_json:
        print(json.dumps([as_object(setting) for part in found for setting in part.settings], indent=1))
    else:
        width = min(shutil.get_terminal_size().columns, WIDEST)
        print("\n\n".join(_section(part, width) for part in found))


def as_object(setting: Setting) -> dict[str, Any]:
    """A setting as `--json` prints it."""
    return {
        "key": setting.key,
        "default": setting.default,
        "required": setting.required,
        "values": setting.values,
        "clock": setting.clock,
        "meaning": setting.meaning,
        "presets": dict(setting.presets),
        "only_with": dict(setting.only_with),
    }


def preset_words(setting: Setting, quote: str = "") -> str:
    """The algorithms with another default: "1 with fedasync"; empty where there are none. quote: around a value."""
    found = setting.presets_by_value()
    return "; ".join(f"{quote}{value}{quote} with {', '.join(names)}" for value, names in found)


def _section(section: Section, width: int) -> str:
    parts = [f"[{section.key}]"] if section.key else []
    parts += [_wrapped(section.meaning, width, "")]
    parts += ["\n".join(_lines(setting, width)) for setting in section.settings]
    return "\n\n".join(parts)


def _lines(setting: Setting, width: int) -> Iterator[str]:
    yield f"{setting.key} = {setting.default_text}"
    yield _wrapped(setting.meaning, width, "    ")
    about = f"Takes {setting.values}. {CLOCKS[setting.clock].capitalize()}."
    if setting.conditions:
        about += f" Only {setting.conditions}."
    if words := preset_words(setting):
        about += f" Default: {words}."
    yield _wrapped(about, width, "    ")


def _wrapped(text: str, width: int, indent: str) -> str:
    """The paragraphs of a text and the items of its lists, wrapped; an indented formula keeps its lines."""
    return "\n\n".join(
        "\n".join(_filled(item, width, indent) for item in _ITEM.split(part)) for part in text.split("\n\n")
    )


def _filled(text: str, width: int, indent: str) -> str:
    if text.startswith(" "):
        return textwrap.indent(text, indent)
    hanging = indent + "  " * text.startswith("- ")
    words = " ".join(text.split())  # the source's own line breaks, with the indentation behind them
    return textwrap.fill(words, width, initial_indent=indent, subsequent_indent=hanging)
