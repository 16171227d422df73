"""An experiment: one complete, checked value, composed of the small configs of the floors below.

Layers, the higher one wins: the algorithm's preset, the experiment's sections, a variant of a suite, `--set`.
A variant or `--set` that names *another* algorithm brings that algorithm's preset over the file's sections
(`--set algorithm=fedbuff` is FedBuff, whatever the file says of codecs).
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from qafel_mpi import experiments
from qafel_mpi.algorithms.config import DownlinkConfig, ServerConfig, StalenessConfig
from qafel_mpi.algorithms.presets import DEFINING
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.config_across import idle_across
from qafel_mpi.config_idle import idle_settings, of_the_other_clock, settings_in, without, without_voided
from qafel_mpi.config_layers import merged, with_preset
from qafel_mpi.config_pull import impossible_pulls
from qafel_mpi.config_sections import EvaluationConfig, StopConfig, TraceConfig
from qafel_mpi.config_sums import impossible_sums
from qafel_mpi.config_text import (
    ConfigError,
    Keys,
    did_you_mean,
    nested,
    parse_override,
    problems_of,
    toml_document,
)
from qafel_mpi.schedule.config import ClockConfig
from qafel_mpi.setting import BOTH, Settings, takes
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.transport.config import TransportConfig


class Experiment(Settings):
    """An experiment: with the data and the machine it determines a run."""

    description: str = Field(
        "", description="One line about the experiment for `qafel-mpi list`.", json_schema_extra=BOTH
    )
    algorithm: Literal[
        "qafel",
        "qafel-ef",
        "fedbuff",
        "fedbuff-nvflare",
        "fedbuff-appfl",
        "naive",
        "fedasync",
        "fadas",
        "ca2fl",
        "decoupled",
        "quafl",
        "fedavg",
        "fedpaq",
    ] = Field(
        "qafel",
        description="Algorithm whose preset fills in the settings that the experiment leaves out.",
        json_schema_extra=BOTH,
    )
    seed: int = Field(
        0,
        ge=0,
        lt=2**63,
        description="Seed of all random numbers; on the virtual clock the results are a function of it alone.",
        json_schema_extra=BOTH | takes("a whole number >= 0 and < 2^63"),
    )
    task: TaskConfig = TaskConfig()
    client: ClientConfig = ClientConfig()
    server: ServerConfig = ServerConfig()
    uplink: CodecConfig = CodecConfig()
    downlink: DownlinkConfig = DownlinkConfig()
    staleness: StalenessConfig = StalenessConfig()
    clock: ClockConfig = ClockConfig()
    stop: StopConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    transport: TransportConfig = TransportConfig()
    trace: TraceConfig = TraceConfig()

    @property
    def algorithm_label(self) -> str:
        """The algorithm as traces and tables name it: with what makes it another one than its definition.

        "fedbuff", or "fedbuff (uplink.codec = qsgd)".
        """
        departures = (
            f"{key} = {str(value).lower() if isinstance(value, bool) else value}"
            for key, defined in DEFINING[self.algorithm].items()
            if (value := reduce(getattr, key.split("."), self)) != defined
        )
        words = ", ".join(departures)
        return f"{self.algorithm} ({words})" if words else self.algorithm

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        if problems := list(_contradictions(self)):
            raise ValueError("\n".join(problems))
        return self


def _contradictions(exp: Experiment) -> Iterable[str]:
    """Settings that are each fine and together cannot run, with the reason."""
    yield from idle_across(exp)
    yield from _impossible_populations(exp)
    yield from impossible_pulls(exp)
    yield from impossible_sums(exp)
    if exp.server.quorum is not None and exp.evaluation.target_uploads == "steps":
        yield (
            "evaluation.target_uploads = 'steps' counts server.buffer_size uploads a step, and with server.quorum a "
            "step may have fewer: set evaluation.target_uploads=received"
        )
    if exp.clock.kind == "virtual":
        yield from _impossible_schedules(exp)
    elif exp.stop.model_dump(exclude_none=True).keys() == {"virtual_seconds"}:
        yield (
            "stop.virtual_seconds: clock.kind = 'wall' has no virtual time; set another of the stop settings"
        )
    yield from _impossible_broadcasts(exp)


def _impossible_populations(exp: Experiment) -> Iterable[str]:
    if exp.clock.kind == "virtual" and exp.task.clients == "ranks":
        yield (
            "task.clients = 'ranks' makes each client rank one client, and with clock.kind = 'virtual' ranks are no "
            "clients: start it under mpirun on the wall clock, or give the number of clients, e.g. task.clients = 100"
        )
    if exp.client.draw != "uniform" and exp.clock.kind == "virtual":
        yield (
            f"client.draw = '{exp.client.draw}' has no effect with clock.kind = 'virtual', where the schedule draws "
            "clients uniformly: leave it out"
        )
    if exp.client.draw != "uniform" and exp.task.clients == "ranks":
        yield (
            f"client.draw = '{exp.client.draw}' has no effect with task.clients = 'ranks', where a rank always plays "
            "the same client: leave it out, or give the number of clients"
        )
    if exp.client.optimizer == "adamw" and exp.task.model == "logistic":
        yield (
            "client.optimizer = 'adamw': task.model = 'logistic' is trained by SGD; set client.optimizer=sgd, and a "
            "client.learning_rate that fits it"
        )
    clients, buffer_size = exp.task.clients, exp.server.buffer_size
    # Of 'ranks' it is known when the run starts: drivers/wall/run.py looks at it then.
    if clients != "ranks" and exp.server.synchronous and buffer_size > clients:
        yield (
            f"server.buffer_size = {buffer_size}: a synchronous round waits for that many different clients, "
            f"and there are {clients} (task.clients): it would wait for ever"
        )


def _impossible_schedules(exp: Experiment) -> Iterable[str]:
    """On the virtual clock."""
    clients, buffer_size, clock = exp.task.population(), exp.server.buffer_size, exp.clock
    if exp.server.quorum is not None and clock.staleness is not None:
        yield (
            "server.quorum makes steps by the clock, and with clock.staleness each has server.buffer_size uploads by "
            "decree: leave one of the two out"
        )
    if exp.server.synchronous and clock.staleness is not None:
        yield (
            "server.synchronous uses nothing of earlier versions, and clock.staleness prescribes from which earlier "
            "version an update starts: leave one of the two out"
        )
    if exp.staleness.weight == "rate" and clock.staleness is not None:
        yield (
            "staleness.weight = 'rate' weighs updates by their training time, and with clock.staleness a training's "
            "time follows from its staleness: leave one of the two out"
        )
    if exp.server.synchronous and clock.concurrency is not None and buffer_size > clock.concurrency:
        yield (
            f"server.buffer_size = {buffer_size}: a synchronous round waits for that many clients, and "
            f"{clock.concurrency} train at the same time (clock.concurrency): it would wait for ever"
        )
    if exp.task.clients == "ranks":
        return
    if clock.concurrency is not None and clock.concurrency > clients:
        yield (
            f"clock.concurrency = {clock.concurrency}: more than there are clients (task.clients = {clients})"
        )
    mean_s = clock.duration.mean()
    if clock.rate is not None and mean_s is not None and clock.rate * mean_s > clients:
        yield (
            f"clock.rate = {clock.rate}: about {clock.rate * mean_s:.0f} clients would train at the same time, "
            f"more than there are (task.clients = {clients})"
        )


def _impossible_broadcasts(exp: Experiment) -> Iterable[str]:
    algorithm = exp.transport.broadcast
    label = f"transport.broadcast = '{algorithm}'"
    if algorithm == "fanout":
        return
    if exp.clock.kind == "virtual":
        yield (
            f"{label}: with clock.kind = 'virtual' a rank's orders must keep their place among the broadcasts, and "
            "MPI keeps the order of messages from one rank only: set transport.broadcast = 'fanout'"
        )
    if exp.downlink.delivery == "unicast":
        yield (
            f"{label}: with downlink.delivery = 'unicast' every client downloads its own model, and there are no "
            "broadcasts: set transport.broadcast = 'fanout'"
        )
    if algorithm == "ibcast" and exp.downlink.entropy != "none":
        yield (
            f"{label}: MPI_Ibcast needs the size at every rank beforehand, and with downlink.entropy = "
            f"'{exp.downlink.entropy}' only rank 0 knows it: set transport.broadcast = 'fanout' or 'tree'"
        )


# --- loading ----------------------------------------------------------------------------------------


def load(name_or_path: str, overrides: Sequence[str] = (), variant: str | None = None) -> Experiment:
    """The experiment of that name, or of that TOML file, with `section.key=value` overrides.

    Raises ConfigError with all that is wrong, one line a problem.
    """
    label, tables = _read(name_or_path)
    tables, variants = _without_variants(tables, label)
    layers = [tables]
    problems: list[str] = []
    given: dict[str, Any] = {}
    origins: list[Keys] = []
    if variant is not None:
        if variant not in variants:
            raise ConfigError([f"{label}: variant {variant}: {did_you_mean(variant, variants)}"])
        layers.append(variants[variant])
        label = f"{label}, variant {variant}"
    for text in overrides:
        try:
            keys, value = parse_override(text)
        except ConfigError as error:
            problems += error.problems
            continue
        origins.append(keys)
        given = merged(given, nested(keys, value), settle=False)
    if problems:
        raise ConfigError(problems)
    return _validated([*layers, given], label, origins)


def from_toml(text: str, label: str = "experiment") -> Experiment:
    """The inverse of to_toml: settings that have no effect are passed over. Raises ConfigError."""
    tables, _ = _without_variants(_parse(text, label), label)
    return _validated([tables], label, (), whole=True)


def refuse_other_clock(overrides: Sequence[str], clock: str) -> None:
    """Raise ConfigError for `--set` of settings that have no effect on this clock: wall or virtual.

    An experiment and its variants may have settings for either clock; who gives one by hand means this run.
    """
    given = [settings_in(nested(*parse_override(text)), Experiment) for text in overrides]
    found = [(keys, of_the_other_clock(keys, clock, Experiment)) for settings in given for keys in settings]
    if problems := [f"--set {'.'.join(keys)}: {reason}" for keys, reason in found if reason]:
        raise ConfigError(problems)


def to_toml(experiment: Experiment) -> str:
    """The whole experiment as TOML, the preset resolved: from_toml gives an equal one back."""
    return toml_document(experiment.model_dump(mode="json", exclude_none=True))


def variants_of(name_or_path: str) -> dict[str, dict[str, Any]]:
    """The variants of a suite by name, as nested overrides; empty for an experiment that is no suite."""
    label, tables = _read(name_or_path)
    return _without_variants(tables, label)[1]


def _read(name_or_path: str) -> tuple[str, dict[str, Any]]:
    if name_or_path in experiments.names():
        path, label = experiments.path_of(name_or_path), f"experiment {name_or_path}.toml"
    else:
        path, label = Path(name_or_path).expanduser(), f"experiment {name_or_path}"
    try:
        return label, _parse(path.read_text(encoding="utf-8"), label)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        known = did_you_mean(name_or_path, experiments.names())
        raise ConfigError(
            [f"{label}: {path.absolute()}: {reason}; it names neither a file nor an experiment; {known}"]
        ) from None


def _parse(text: str, label: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{label}: not TOML: {error}"]) from None


def _without_variants(
    tables: Mapping[str, Any], label: str
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    tables = dict(tables)
    variants = tables.pop("variants", {})
    if not isinstance(variants, dict) or not all(isinstance(table, dict) for table in variants.values()):
        raise ConfigError([f"{label}: variants: it takes tables of overrides, [variants.NAME]"])
    return tables, variants


def _validated(
    layers: Sequence[Mapping[str, Any]], label: str, origins: Sequence[Keys], *, whole: bool = False
) -> Experiment:
    """The experiment that the layers describe. JSON's strict mode: lists are tuples, but 1 is not true.

    whole: the layers give every setting, also those that have no effect.
    """
    given = without_voided(layers, Experiment)
    idle = [] if whole else idle_settings(given, Experiment)
    tables = with_preset(given)
    for one in idle:
        tables = without(tables, one.keys)
    problems = [(keys, "it must be a finite number") for keys in _leaves(tables, _not_finite)]
    problems += [(keys, "it must be a number of 64 bits") for keys in _leaves(tables, _too_long)]
    if not problems:
        try:
            experiment = Experiment.model_validate_json(json.dumps(tables, default=str), strict=True)
        except ValidationError as error:
            problems = problems_of(error, Experiment)
    wrong = {keys for keys, _ in problems}
    problems += [(one.keys, one.reason) for one in idle if one.because_of not in wrong]
    if not problems:
        return experiment
    raise ConfigError(_located(keys, sentence, label, origins) for keys, sentence in problems)


def _leaves(value: Any, wrong: Callable[[Any], bool], keys: Keys = ()) -> Iterable[Keys]:
    """The keys of the settings that are wrong, or have something wrong in their lists."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, wrong, (*keys, key))
    elif isinstance(value, list):
        yield from dict.fromkeys(found for item in value for found in _leaves(item, wrong, keys))
    elif wrong(value):
        yield keys


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _too_long(value: Any) -> bool:
    """TOML's whole numbers have 64 bits, and so have those of our arrays."""
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def _located(keys: Keys, sentence: str, label: str, origins: Sequence[Keys]) -> str:
    """The problem with where it was written: in the experiment, by --set, or by both together."""
    if any(keys[: len(one)] == one for one in origins):
        return f"--set {'.'.join(keys)}: {sentence}"
    sections = [".".join(one) for one in origins if one[: len(keys)] == keys]
    place = f"{label} with --set {', '.join(sections)}" if sections else label
    return ": ".join(part for part in (place, ".".join(keys), sentence) if part)
