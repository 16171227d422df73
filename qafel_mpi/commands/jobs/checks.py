"""What `jobs render` refuses: jobs that SLURM would not take, or that would wait in the queue only to fail."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from qafel_mpi.config import Experiment, load, variants_of
from qafel_mpi.config_text import ConfigError, did_you_mean, parse_seeds

# sbatch(1): "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours", "days-hours:minutes" and
# "days-hours:minutes:seconds".
_TIME = re.compile(r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|infinite|unlimited", re.IGNORECASE | re.ASCII)
_WITH_UNITS = re.compile(r"(\d+(?:\.\d+)?)\s*([dhms])[a-z]*\s*", re.IGNORECASE | re.ASCII)
_UNIT_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}


@dataclass(frozen=True)
class Job:
    """What a filled-in template would run."""

    variables: Mapping[str, str]  # EXPERIMENT or SUITE, SEEDS, OPTIONS
    sbatch: Mapping[str, str | None]  # the #SBATCH options; of a heterogeneous job, of the clients' part
    server_apart: bool = False  # a heterogeneous job: a part with the server, and one with the clients

    @property
    def is_suite(self) -> bool:
        return "SUITE" in self.variables

    @property
    def name(self) -> str:
        """Of the experiment or suite, or its file."""
        return self.variables["SUITE" if self.is_suite else "EXPERIMENT"]

    @property
    def given(self) -> dict[str, list[str]]:
        """OPTIONS by name. Raises ConfigError."""
        return given_options(self.variables.get("OPTIONS", ""))


def check(job: Job, note: Callable[[str], None] = lambda line: None) -> None:
    """Raise ConfigError for what can't run, naming the option. note: is told what is left out of a suite."""
    check_time(job.sbatch.get("time") or "0")
    if "SEEDS" in job.variables:
        parse_seeds(job.variables["SEEDS"])
    check_tasks(job, experiments(job), note)
    check_gpus(job)


def check_time(text: str) -> None:
    """Raise ConfigError where SLURM would not take this as a time limit."""
    if _TIME.fullmatch(text):
        return
    meant = "".join(f"; for {text} give {limit}" for limit in [_time_limit(text)] if limit)
    raise ConfigError([f"--time {text}: SLURM takes MINUTES, HH:MM:SS or DAYS-HH:MM:SS{meant}"])


def _time_limit(text: str) -> str:
    """
    >>> _time_limit("2h"), _time_limit("1.5 days"), _time_limit("1h 30min"), _time_limit("soon")
    ('02:00:00', '1-12:00:00', '01:30:00', '')
    """
    parts = _WITH_UNITS.findall(text)
    if not parts or _WITH_UNITS.sub("", text).strip():
        return ""
    seconds = round(sum(float(count) * _UNIT_SECONDS[unit.lower()] for count, unit in parts))
    days, rest = divmod(seconds, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def given_options(text: str) -> dict[str, list[str]]:
    """The options in a text, as a shell and then a command read it: name -> its values. Raises ConfigError.

    >>> given_options("--set uplink.bits=2 --variant=a --set 'x=1 2'")
    {'--set': ['uplink.bits=2', 'x=1 2'], '--variant': ['a']}
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ConfigError([f"--options {text}: {error}"]) from None
    found: dict[str, list[str]] = defaultdict(list)
    for word, following in pairwise([*words, ""]):
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            found[name].append(value if equals else following)
    return dict(found)


def experiments(job: Job) -> dict[str, Experiment]:
    """The experiments that the job runs, each by its variant ("" where it has none). Raises ConfigError."""
    settings = [*job.given.get("--set", []), *(f"seed={seed}" for seed in job.given.get("--seed", []))]
    try:
        variants = _variants(job)
        return {variant or "": load(job.name, settings, variant) for variant in variants}
    except ConfigError as error:
        option = "--suite" if job.is_suite else "--experiment"
        raise ConfigError(_labelled(line, option, job.name) for line in error.problems) from None


def _variants(job: Job) -> Sequence[str | None]:
    """Those that OPTIONS names, else all of a suite. Raises ConfigError."""
    chosen = list(dict.fromkeys(job.given.get("--variant", [])))
    known = variants_of(job.name)
    if unknown := [one for one in chosen if one not in known]:
        raise ConfigError(f"--variant {one}: {did_you_mean(one, known)}" for one in unknown)
    if not job.is_suite:
        return chosen[-1:] or [None]
    if not known:
        raise ConfigError(["it has no variants; a template with --experiment runs it"])
    return chosen or list(known)


def _labelled(problem: str, option: str, name: str) -> str:
    """The problem, named after the option of `jobs render` that it came with."""
    if problem.startswith("--"):
        return f"--options: {problem}"
    return f"{option} {name}: {problem.removeprefix(f'experiment {name}: ')}"


def count_runs(job: Job) -> int:
    """Runs of a suite: variants times seeds. Raises ConfigError."""
    return len(experiments(job)) * len(parse_seeds(job.variables["SEEDS"]))


def check_tasks(job: Job, runs: Mapping[str, Experiment], note: Callable[[str], None]) -> None:
    """Raise ConfigError where the job has too few tasks for what it runs."""
    tasks = _tasks(job.sbatch)
    if tasks is None:
        return
    tasks += job.server_apart
    one_process = (
        "array" in job.sbatch and tasks == 1
    )  # such a task runs on the virtual clock, whatever the file says
    least = {name: _fewest(run, one_process) for name, run in runs.items()}
    too_large = {name: ranks for name, ranks in least.items() if ranks > tasks}
    if not too_large:
        return
    ranks = min(too_large.values())
    why = f"; they need up to {max(too_large.values())}" if len(too_large) > 1 else ""
    if too_large.keys() == least.keys() or "--variant" in job.given:
        raise ConfigError([_too_few(job, tasks, ranks)])
    note(f"note: {tasks} tasks are too few for {', '.join(too_large)}, which the suite will skip{why}")


def _fewest(experiment: Experiment, one_process: bool) -> int:
    """The fewest ranks that it runs on: on the wall clock a server and a client."""
    return experiment.transport.ranks or (1 if one_process or experiment.clock.kind == "virtual" else 2)


def _too_few(job: Job, tasks: int, ranks: int) -> str:
    asked = " and ".join(f"--{name} {job.sbatch[name]}" for name in _COUNTS if job.sbatch.get(name))
    has = f"{tasks} task{'s' if tasks > 1 else ''}"
    if ranks > 2:
        return f"{asked}: the job has {has}, and {job.name} needs {ranks}; raise --nodes or --ntasks-per-node"
    return (
        f"{asked}: the job has {has}, and a run in real time needs 2, a server and a client; give "
        'more, or --options "--set clock.kind=virtual" to run it in virtual time'
    )


_COUNTS = ("nodes", "ntasks", "ntasks-per-node")


def _tasks(sbatch: Mapping[str, str | None]) -> int | None:
    """How many tasks the job has at least; None where its options do not say so in plain numbers."""
    nodes, ntasks, per_node = (_number(sbatch.get(name)) for name in _COUNTS)
    if ntasks is not None:
        return ntasks
    return nodes * per_node if nodes is not None and per_node is not None else None


def _number(text: str | None) -> int | None:
    match = re.match(r"\d+", text or "", re.ASCII)  # of nodes, "2-4", the fewest
    return int(match[0]) if match else None


def check_gpus(job: Job) -> None:
    """Raise ConfigError where a host has more client ranks than GPUs, which the templates forbid them to share."""
    gpus, per_node = (_number(job.sbatch.get(name)) for name in ("gpus-per-node", "ntasks-per-node"))
    shared = any(text.replace(" ", "") == "transport.share_gpus=true" for text in job.given.get("--set", []))
    if gpus is None or per_node is None or shared:
        return
    server = 0 if job.server_apart else 1  # that place is free on one host, and spare on the others
    if per_node - server <= gpus:
        return
    raise ConfigError(
        [
            f"--ntasks-per-node {per_node}: {per_node - server} client ranks a node and {gpus} GPUs; give "
            f'--ntasks-per-node {gpus + server}, or --options "--set transport.share_gpus=true" to share them'
        ]
    )
