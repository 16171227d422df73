"""The SLURM templates, and how one is filled in: text in, text out."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from qafel_mpi.config_text import ConfigError

FOLDER = Path(str(files("qafel_jobs")))
_LOOKED_FOR = re.compile(r'^\[ -r "\$QAFEL_JOBS/.*\n', re.MULTILINE)
_SOURCED = re.compile(r'^\. "\$QAFEL_JOBS/(?P<name>[\w.]+)"$', re.MULTILINE)
_OPTION = re.compile(r"^#+SBATCH --(?P<name>[\w-]+)(?:=.*)?$")
_SET_OPTION = re.compile(r"^#SBATCH --(?P<name>[\w-]+)(?:=(?P<value>.*))?$", re.MULTILINE)
# Between the parts of a heterogeneous job: the server's, and the clients'. These options are both parts'.
_PARTS = "#SBATCH hetjob\n"
_OF_BOTH = ("account", "qos", "time")
_VARIABLE = re.compile(r"^(?P<name>[A-Z]+)=\$\{(?P=name):-(?P<default>[^}]*)\}")


def templates() -> dict[str, str]:
    """Name -> the first line of what a template says of itself."""
    found = sorted(FOLDER.glob("*.sbatch"))
    return {path.stem: path.read_text(encoding="utf-8").splitlines()[1].lstrip("# ") for path in found}


SITE = {
    "reframe_qafel.py": "tests for ReFrame",
    "reframe_settings.py": "your site, for ReFrame",
    "qafel.yaml": "a study for JUBE",
    "container.py": "a recipe for hpccm",
    "Dockerfile": "what hpccm makes of it",
    "apptainer.def": "what hpccm makes of it",
    "qafel-mpi-0.2.0-foss-2025b.eb": "an easyconfig for EasyBuild",
    "spack_package.py": "a package for Spack; untested",
}


def site_files(out: Path | None) -> dict[Path, str]:
    """Where the files of jobs/site/ are, and a few words on each. out: a folder to copy them to. Raises OSError."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        if there := [name for name in SITE if (out / name).exists()]:
            raise OSError(f"{there[0]} is there already")
        for name in SITE:
            shutil.copyfile(FOLDER / "site" / name, out / name)
    return {(out or FOLDER / "site") / name: about for name, about in SITE.items()}


def template(name: str) -> str:
    """The text of one of templates()."""
    return (FOLDER / f"{name}.sbatch").read_text(encoding="utf-8")


def variables(script: str) -> dict[str, str]:
    """The variables at a template's top with their defaults: EXPERIMENT -> digits."""
    return {m["name"]: m["default"] for m in map(_VARIABLE.match, script.splitlines()) if m}


def options(script: str) -> dict[str, str | None]:
    """The #SBATCH options that are in force, by name; None for one without a value. In two parts: the clients'."""
    return {m["name"]: m["value"] for m in _SET_OPTION.finditer(script.rpartition(_PARTS)[2])}


def has_two_parts(script: str) -> bool:
    """Whether the server is a part of its own, of a heterogeneous job."""
    return _PARTS in script


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

    None is the value of an option that takes none. In a heterogeneous job they are the clients' part's, but for
    _OF_BOTH.
    """
    server, parts, script = script.rpartition(_PARTS)
    shared = {name: value for name, value in settings.items() if name in _OF_BOTH}
    return (_with_options(server, shared) if parts else "") + parts + _with_options(script, settings)


def _with_options(script: str, settings: Mapping[str, str | None]) -> str:
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
