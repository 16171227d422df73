"""The command `crate`: runs as an RO-Crate, one folder to upload beside a paper.

https://www.researchobject.org/ro-crate, version 1.1, after the profile Process Run Crate 0.5. h5py and rocrate are
imported inside.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from qafel_mpi.config_text import ConfigError

EXAMPLES = (
    "Examples:\n\n  qafel-mpi crate runs/*.h5 --out crate\n\n"
    '  qafel-mpi crate runs/*.h5 --out crate --title "QAFeL at 4 bits" --author "A. Author" --license CC-BY-4.0'
)
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
# Attributes of a trace that say where and with what it ran.
ENVIRONMENT = (
    "command_line", "git_commit", "git_dirty", "versions", "started", "host", "hosts", "cpu", "memory_bytes",
    "mpi_library", "interconnect", "container", "scheduler", "arithmetic", "fingerprints", "ranks", "energy",
)  # fmt: skip
RESULTS = ("uploads", "server_steps", "accuracy", "loss", "seconds", "payload_bytes_up", "payload_bytes_down")
ANALYSIS = "from qafel_analysis.commands.app import main; main()"


def crate(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN.h5...", help="Trace files.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The folder to make.")],
    title: Annotated[str, typer.Option(metavar="TEXT", help="Name of the crate.")] = "Runs of qafel_mpi",
    description: Annotated[
        str, typer.Option(metavar="TEXT", help="What the runs are for. Default: what they are.")
    ] = "",
    author: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="An author of the runs. Can be repeated.")
    ] = None,
    licence: Annotated[
        str,
        typer.Option("--license", metavar="NAME", help="Licence of the data: an SPDX name, or an address."),
    ] = "",
    figures: Annotated[bool, typer.Option(help="Also draw the figures that the runs allow.")] = True,
) -> None:
    """Make a folder of runs to upload beside a paper: an RO-Crate with experiments, traces, environment and figures.

    Every trace is compared with its checksums first. The folder has experiments as TOML, traces, what each ran on,
    the table of `qafel-analysis table`, its figures, and ro-crate-metadata.json, which says what belongs to what. It
    appears under its name when it is whole. Look at environment/ before you publish it: it names hosts and commands.
    """
    if out.exists():
        raise ConfigError([f"{out}: exists; give the crate a folder of its own"])
    library = _library()
    found = list(_read(runs))
    try:
        _make(
            library,
            out,
            found,
            figures,
            lambda made: _describe(made, title, description, author or [], licence),
        )
    except OSError as error:
        raise ConfigError([f"{error.filename or out}: {error.strerror or error}"]) from None
    files = sum(1 for path in out.rglob("*") if path.is_file())
    print(f"{out}: {len(found)} run{'s' if len(found) > 1 else ''}, {files} files")
    if not licence:
        print(f"{out}: no licence was given, so nobody may use the data; see --license", file=sys.stderr)


def _make(
    library: Any, out: Path, found: Sequence[Found], figures: bool, describe: Callable[[Any], None]
) -> None:
    """Make the crate beside `out`, and give it its name when it is whole. Raises OSError, ConfigError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as place:
        parts = Path(place) / "parts"
        _write_parts(found, parts)
        if figures:
            _analyse(["figures", *(str(run.path) for run in found), "--out", str(parts / "figures")])
        table = _analyse(["table", *(str(run.path) for run in found), "--csv"])
        (parts / "table.csv").write_text(table, encoding="utf-8")
        made = _crate(library, found, parts)
        describe(made)
        made.write(Path(place) / "crate")
        _validate(library, Path(place) / "crate")
        (Path(place) / "crate").rename(out)


def _library() -> Any:
    try:
        from rocrate import rocrate
    except ImportError:
        raise ConfigError(
            ["crate needs rocrate, which is not installed: pip install 'qafel-mpi[crate]'"]
        ) from None
    return rocrate


class Found:
    """A trace that goes into the crate: its name there, and its attributes."""

    def __init__(self, path: Path, name: str, attributes: Mapping[str, Any]):
        self.path, self.name, self.attributes = path, name, attributes

    @property
    def experiment(self) -> str:
        return str(self.attributes.get("experiment", ""))

    def environment(self) -> dict[str, Any]:
        return {key: _plain(self.attributes[key]) for key in ENVIRONMENT if key in self.attributes}

    def times(self) -> dict[str, str]:
        """Of the run, as RO-Crate has them; {} where the trace does not say."""
        try:
            begin = datetime.fromisoformat(str(self.attributes["started"])).astimezone(UTC)
            end = begin + timedelta(seconds=float(self.attributes["seconds"]))
        except (KeyError, ValueError, OverflowError):
            return {}
        return {"startTime": begin.isoformat(), "endTime": end.isoformat(timespec="seconds")}


def _plain(value: Any) -> Any:
    """JSON in an attribute as what it says."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _read(runs: Sequence[Path]) -> Iterator[Found]:
    """Raises ConfigError for what is no whole trace."""
    from qafel_mpi.trace.reader import TraceError, open_trace

    names: dict[str, Path] = {}
    for path in runs:
        if path.is_dir():
            raise ConfigError(
                [f"{path}: a folder of shards; make a trace of it first: qafel-mpi merge {path}"]
            )
        name = next(n for n in _names(path) if n not in names)
        names[name] = path
        try:
            with open_trace(path) as trace:
                trace.verify()
                yield Found(path, name, dict(trace.attributes))
        except TraceError as error:
            raise ConfigError([str(error)]) from None


def _names(path: Path) -> Iterator[str]:
    """As short as can be: a, then folder-a, then a-2 and so on."""
    yield path.stem
    yield f"{path.absolute().parent.name}-{path.stem}"
    yield from (f"{path.stem}-{number}" for number in range(2, 1_000_000))


def _write_parts(found: Sequence[Found], parts: Path) -> None:
    for folder in ("experiments", "environment"):
        (parts / folder).mkdir(parents=True)
    for run in found:
        (parts / f"experiments/{run.name}.toml").write_text(run.experiment, encoding="utf-8")
        text = json.dumps(run.environment(), indent=1, ensure_ascii=False)
        (parts / f"environment/{run.name}.json").write_text(
            text + "\n", encoding="utf-8", errors="backslashreplace"
        )


def _analyse(arguments: list[str]) -> str:
    """What a command of qafel-analysis prints. It is another program: this package does not import it."""
    done = subprocess.run(
        [sys.executable, "-c", ANALYSIS, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        advice = "; --no-figures makes the crate without" if arguments[0] == "figures" else ""
        raise ConfigError([f"qafel-analysis {arguments[0]}: {last.removeprefix('qafel-analysis: ')}{advice}"])
    return done.stdout


def _crate(library: Any, found: Sequence[Found], parts: Path) -> Any:
    """The crate with its files, and an action for each run."""
    from rocrate.model.contextentity import ContextEntity
    from rocrate.model.softwareapplication import SoftwareApplication

    made = library.ROCrate(version="1.1", gen_preview=True)
    algorithms = sorted({str(run.attributes.get("algorithm", "unknown")) for run in found})
    made.description = f"{len(found)} runs of {', '.join(algorithms)} with qafel_mpi, with their traces."
    made.root_dataset["conformsTo"] = made.add(
        ContextEntity(made, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"})
    )
    programs: dict[str, Any] = {}
    for run in found:
        number = str(_plain(run.attributes.get("versions", {})).get("qafel-mpi", "")) or version("qafel-mpi")
        if number not in programs:
            about = {
                "name": "qafel_mpi",
                "softwareVersion": number,
                "url": "https://arxiv.org/abs/2308.00263",
            }
            programs[number] = made.add(SoftwareApplication(made, f"#qafel-mpi-{number}", about))
        _add_run(made, run, parts, programs[number])
    kinds = {".pdf": "application/pdf", ".png": "image/png", ".md": "text/markdown"}
    for path in sorted((parts / "figures").glob("*")):
        about = {"name": path.stem, "encodingFormat": kinds.get(path.suffix, "application/octet-stream")}
        made.add_file(path, f"figures/{path.name}", properties=about)
    about = {"name": "what each run cost and reached", "encodingFormat": "text/csv"}
    made.add_file(parts / "table.csv", "table.csv", properties=about)
    return made


def _add_run(made: Any, run: Found, parts: Path, program: Any) -> None:
    from rocrate.model.contextentity import ContextEntity

    def file(source: Path, kind: str, name: str, encoding: str, **more: Any) -> Any:
        about = {"name": f"{name} of {run.name}", "encodingFormat": encoding, **more}
        return made.add_file(source, f"{kind}/{run.name}{source.suffix}", properties=about, record_size=True)

    experiment = file(parts / f"experiments/{run.name}.toml", "experiments", "experiment", "application/toml")
    environment = file(
        parts / f"environment/{run.name}.json", "environment", "environment", "application/json"
    )
    measured = [
        made.add(
            ContextEntity(
                made,
                f"#{run.name}-{key}",
                {"@type": "PropertyValue", "name": key, "value": run.attributes[key]},
            )
        )
        for key in RESULTS
        if key in run.attributes and run.attributes[key] == run.attributes[key]  # no nan in JSON
    ]
    trace = file(run.path, "traces", "trace", "application/x-hdf5", variableMeasured=measured)
    outcome = str(run.attributes.get("outcome", "unknown"))
    failed = outcome.startswith("failed")
    about: dict[str, Any] = {
        "@type": "CreateAction",
        "name": f"run {run.name}",
        "description": str(run.attributes.get("command_line", "")),
        "actionStatus": f"http://schema.org/{'Failed' if failed else 'Completed'}ActionStatus",
        **({"error": outcome} if failed else {}),
        **run.times(),
    }
    action = made.add(ContextEntity(made, f"#run-{run.name}", about))
    action["instrument"], action["object"], action["result"] = program, [experiment, environment], [trace]
    made.root_dataset.append_to("mentions", action)


def _describe(made: Any, title: str, description: str, authors: Sequence[str], licence: str) -> None:
    from rocrate.model.contextentity import ContextEntity
    from rocrate.model.person import Person

    made.name = title
    made.description = description or made.description
    made.datePublished = datetime.now(UTC)
    for number, author in enumerate(authors, 1):
        made.root_dataset.append_to("author", made.add(Person(made, f"#author-{number}", {"name": author})))
    if licence:
        address = licence if "://" in licence else f"https://spdx.org/licenses/{licence}"
        about = {"@type": "CreativeWork", "name": licence, "description": f"the licence {licence}"}
        made.license = made.add(ContextEntity(made, address, about))
    else:
        made.license = "No licence was given: all rights are reserved."


def _validate(library: Any, folder: Path) -> None:
    """Read the crate again with rocrate, and see that every file it speaks of is there."""
    again = library.ROCrate(folder)
    missing = [entity.id for entity in again.data_entities if not (folder / entity.id).exists()]
    if missing:
        raise ConfigError([f"{folder}: {', '.join(missing)} did not get into the crate"])
