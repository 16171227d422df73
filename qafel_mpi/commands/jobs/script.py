"""The SLURM templates, and how one is filled in: text in, text out."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from qafel_mpi.config_text import ConfigError

FOLDER = Path(str(files("qafel_jobs")))
_LOOKED_FOR = re.compile(r'^\[ -r "\$QAFEL_JOBS/.*\n', re.MULTILINE)
_SOURCED = re.compile(r'^\. "\$QAFEL_JOBS/(?P<name>[\w.]+)"$', re.MULTILINE)
_OPTION = re.compile(r"^#+SBATCH --(?P<name>[\w-]+)(?:=.*)?$")
_SET_OPTION = re.compile(r"^#SBATCH --(?P<name>[\w-]+)(?:=(?P<value>.*))?$", re.MULTILINE)
_VARIABLE = re.compile(r"^(?P<name>[A-Z]+)=\$\{(?P=name):-(?P<default>[^}]*)\}")


def templates() -> dict[str, str]:
    """Name -> the first line of what a template says of itself."""
    found = sorted(FOLDER.glob("*.sbatch"))
    return {path.stem: path.read_text(encoding="utf-8").splitlines()[1].lstrip("# ") for path in found}


def template(name: str) -> str:
    """The text of one of templates()."""
    return (FOLDER / f"{name}.sbatch").read_text(encoding="utf-8")


def variables(script: str) -> dict[str, str]:
    """The variables at a template's top with their defaults: EXPERIMENT -> digits."""
    return {m["name"]: m["default"] for m in map(_VARIABLE.match, script.splitlines()) if m}


def options(script: str) -> dict[str, str | None]:
    """The #SBATCH options that are in force, by name; None for one that takes no value."""
    return {m["name"]: m["value"] for m in _SET_OPTION.finditer(script)}


def with_variables(script: str, values: Mapping[str, str]) -> str:
    """The script with other values for variables at its top. Raises ConfigError for one that it does not have."""
    left = dict(values)
    lines = script.splitlines()
    for i, line in enumerate(lines):
        if (match := _VARIABLE.match(line)) and match["name"] in left:
            lines[i] = f"{match['name']}={shlex.quote(left.pop(match['name']))}"
    if left:
        raise ConfigError(f"--{name.lower()}: this template has no {name}" for name in left)
    return "\n".join(lines) + "\n"


def with_options(script: str, settings: Mapping[str, str | None]) -> str:
    """The script with these #SBATCH options: in their place where it has them, else after the others.

    None is the value of an option that takes none.
    """
    left = {
        name: f"#SBATCH --{name}" + ("" if value is None else f"={value}") for name, value in settings.items()
    }
    lines = script.splitlines()
    last = 0
    for i, line in enumerate(lines):
        if match := _OPTION.match(line):
            last = i
            if match["name"] in left:
                lines[i] = left.pop(match["name"])
    lines[last + 1 : last + 1] = left.values()
    return "\n".join(lines) + "\n"


def with_sources(script: str, site: Path | None, launcher: str | None) -> str:
    """The script with what it reads from jobs/ inside. Raises ConfigError where the site's file can't be read."""

    def text(match: re.Match[str]) -> str:
        path = site if site is not None and match["name"] == "site.env" else FOLDER / match["name"]
        try:
            found = path.read_text(encoding="utf-8").rstrip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"--site {path}: {getattr(error, 'strerror', None) or error}"]) from None
        chosen = f"\nLAUNCHER={launcher}" if launcher and match["name"] == "site.env" else ""
        return f"# --- {match['name']}\n{found}{chosen}\n# --- end of {match['name']}\n"

    script = _LOOKED_FOR.sub("", script).replace("${SLURM_SUBMIT_DIR:-.}/jobs}", f"{FOLDER}}}")
    return _SOURCED.sub(text, script)
