"""Blocks of docs/settings.md, from the config models."""

from __future__ import annotations

from docs.render.pages import table
from qafel_mpi.commands.settings import preset_words
from qafel_mpi.config_listing import Section, Setting, sections


def settings() -> str:
    """Every section with a table of its settings: what `qafel-mpi settings` prints."""
    return "\n\n".join(_section(section) for section in sections())


def _section(section: Section) -> str:
    title = f"## {section.key}" if section.key else "## Outside all sections"
    header = ["setting", "default", "values", "clock", "meaning"]
    return f"{title}\n\n{section.meaning}\n\n{table(header, map(_row, section.settings))}"


def _row(setting: Setting) -> list[str]:
    default = f"`{setting.default_text}`" if setting.default is not None else setting.default_text
    if words := preset_words(setting, quote="`"):
        default += f"; {words}"
    name = setting.key.rpartition(".")[2]
    meaning = f"{setting.meaning} Only {setting.conditions}." if setting.conditions else setting.meaning
    return [f"`{name}`", default, setting.values, setting.clock, meaning]
