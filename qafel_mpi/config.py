"""An experiment: one complete, checked value, composed of the small configs of the floors below.

Layers, the higher one wins: the algorithm's preset, the experiment's sections, a variant of a suite, `--set`.
A variant or `--set` that names *another* algorithm brings that algorithm's preset over the file's sections
(`--set algorithm=fedbuff` is FedBuff, whatever the file says of codecs).
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qafel_mpi import experiments
from qafel_mpi.algorithms.config import DownlinkConfig, ServerConfig, StalenessConfig
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.config_layers import merged, with_preset
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
from qafel_mpi.setting import BOTH, VIRTUAL, takes
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.transport.config import TransportConfig

_STRICT = ConfigDict(frozen=True, extra="forbid")


class StopConfig(BaseModel):
    """When a run ends. At least one is required; the run ends at the one that is reached first."""

    model_config = _STRICT

    accuracy: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Target: stop when the test accuracy, as a share of 1, is this high.",
        json_schema_extra=BOTH,
    )
    loss: float | None = Field(
        None, description="Target: stop when the loss on the test set is this low.", json_schema_extra=BOTH
    )
    uploads: int | None = Field(
        None, ge=1, description="Stop after this many uploads.", json_schema_extra=BOTH
    )
    steps: int | None = Field(
        None, ge=1, description="Stop after this many server steps.", json_schema_extra=BOTH
    )
    seconds: float | None = Field(
        None, gt=0, description="Stop after this many seconds of real time.", json_schema_extra=BOTH
    )
    virtual_seconds: float | None = Field(
        None, gt=0, description="Stop after this many virtual seconds.", json_schema_extra=VIRTUAL
    )

    @model_validator(mode="after")
    def _ends(self) -> StopConfig:
        if all(getattr(self, name) is None for name in type(self).model_fields):
            raise ValueError(f"the run would never end; set one of {', '.join(type(self).model_fields)}")
        return self


class EvaluationConfig(BaseModel):
    """How often x^t is evaluated, and on how many examples. This never changes what the run computes."""

    model_config = _STRICT

    every_steps: int | None = Field(
        None,
        ge=1,
        description="Server steps between evaluations; 10 where per_epoch is not given either.",
        json_schema_extra=BOTH,
    )
    per_epoch: int | None = Field(
        None,
        ge=1,
        description="Evaluations per epoch, in place of every_steps; an epoch has as many uploads as there "
        "are clients.",
        json_schema_extra=BOTH,
    )
    examples: int | None = Field(
        None,
        ge=1,
        description="Number of test examples that an evaluation uses; without it all of them.",
        json_schema_extra=BOTH,
    )
    target_uploads: Literal["received", "steps"] = Field(
        "received",
        description="What the uploads to the target count: received is every upload, steps is buffer_size for each "
        "server step, as in the paper authors' figures.",
        json_schema_extra=BOTH,
    )

    @model_validator(mode="after")
    def _one_rhythm(self) -> EvaluationConfig:
        if self.every_steps is not None and self.per_epoch is not None:
            raise ValueError("give every_steps or per_epoch, not both")
        return self

    def due(self, version: int, clients: int, buffer_size: int) -> bool:
        """Whether x^version is evaluated. An epoch has ⌈clients / K⌉ server steps: its last buffer may be short."""
        if self.per_epoch is None:
            return version % (self.every_steps or 10) == 0
        steps = -(-clients // buffer_size)
        return version * self.per_epoch // steps > (version - 1) * self.per_epoch // steps


class TraceConfig(BaseModel):
    """What the trace records besides messages, updates and steps, and how soon it is on disk."""

    model_config = _STRICT

    flush_seconds: float = Field(
        1.0,
        ge=0,
        description="Longest time in seconds before a rank's new rows are written to disk.",
        json_schema_extra=BOTH,
    )
    gradient_norm: bool = Field(
        False,
        description="Record the gradient norm of the full training objective at each evaluation.",
        json_schema_extra=BOTH,
    )
    encoding_error: bool = Field(
        False,
        description="Record the quantization error of each update, which costs one more decoding each.",
        json_schema_extra=BOTH,
    )


class Experiment(BaseModel):
    """An experiment: with the data and the machine it determines a run."""

    model_config = _STRICT

    description: str = Field(
        "", description="One line about the experiment for `qafel-mpi list`.", json_schema_extra=BOTH
    )
    algorithm: Literal["qafel", "fedbuff", "naive", "fedasync", "fedavg", "fedpaq"] = Field(
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

    @model_validator(mode="after")
    def _possible(self) -> Experiment:
        if problems := list(_contradictions(self)):
            raise ValueError("\n".join(problems))
        return self


def _contradictions(exp: Experiment) -> Iterable[str]:
    """Settings that are each fine and together cannot run, with the reason."""
    yield from _impossible_populations(exp)
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
    for key, limit in (("concurrency", clock.concurrency), ("limit", clock.limit)):
        if limit is not None and exp.server.synchronous and buffer_size > limit:
            yield (
                f"server.buffer_size = {buffer_size}: a synchronous round waits for that many clients, and at "
                f"most {limit} train at the same time (clock.{key}): it would wait for ever"
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
    problems: list[str] = []
    given: dict[str, Any] = {}
    origins: list[Keys] = []
    if variant is not None:
        if variant not in variants:
            raise ConfigError([f"{label}: variant {variant}: {did_you_mean(variant, variants)}"])
        tables = with_preset(tables, variants[variant])
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
    return _validated(with_preset(tables, given), label, origins)


def from_toml(text: str, label: str = "experiment") -> Experiment:
    """The inverse of to_toml. Raises ConfigError."""
    tables, _ = _without_variants(_parse(text, label), label)
    return _validated(with_preset(tables, {}), label, ())


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


def _validated(tables: Mapping[str, Any], label: str, origins: Sequence[Keys]) -> Experiment:
    """The experiment that the tables describe. JSON's strict mode: lists are tuples, but 1 is not true."""
    problems = [(keys, "it must be a finite number") for keys in _not_finite(tables)]
    if not problems:
        try:
            return Experiment.model_validate_json(json.dumps(tables, default=str), strict=True)
        except ValidationError as error:
            problems = problems_of(error, Experiment)
    raise ConfigError(_located(keys, sentence, label, origins) for keys, sentence in problems)


def _not_finite(value: Any, keys: Keys = ()) -> Iterable[Keys]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _not_finite(item, (*keys, key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield keys


def _located(keys: Keys, sentence: str, label: str, origins: Sequence[Keys]) -> str:
    """The problem with where it was written: in the experiment, by --set, or by both together."""
    if any(keys[: len(one)] == one for one in origins):
        return f"--set {'.'.join(keys)}: {sentence}"
    sections = [".".join(one) for one in origins if one[: len(keys)] == keys]
    place = f"{label} with --set {', '.join(sections)}" if sections else label
    return ": ".join(part for part in (place, ".".join(keys), sentence) if part)
