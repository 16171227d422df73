"""What a trace says of a run that is to be done again: its updates in the order of use, its steps, its end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.config import Experiment, from_toml
from qafel_mpi.drivers import digests
from qafel_mpi.drivers.replay.unseen import Training, missing, sent
from qafel_mpi.trace.file import Trace
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import ENDED, KIND_NUMBERS, LATE, NO_RANK, REFUSED, USED

FIRST_VERSION = 2  # of the schema, that has digests
Job = tuple[int, int]  # (client, participation)
MESSAGE_COLUMNS = ["end", "kind", "src", "client", "version", "sequence"]  # what `unseen` looks at


class ReplayError(Exception):
    """A trace that can't be replayed here; the message says what differs and what to do."""


@dataclass(frozen=True)
class Recorded:
    """A run's trace, without its messages.

    updates: all rows of /updates. served: the numbers of those that were handed to the server, in order; it refused
    some for their values. steps: server steps that it made, each after the last of `served` that came at the version
    before. unseen: trainings whose update the server was not handed, and that another one depends on; unknown: those
    of them that the trace does not tell. norms: by (client, participation) what /encodings has, where the run
    recorded it: norm and error.
    """

    path: Path
    attributes: dict[str, Any]
    experiment: Experiment
    updates: np.ndarray
    served: np.ndarray
    steps: int
    step_rows: np.ndarray  # /steps
    hosts: dict[int, str]  # by rank
    threads: dict[int, int]  # by rank
    x: np.ndarray | None  # at the end
    x_hat: np.ndarray | None
    unseen: tuple[Training, ...] = ()
    unknown: tuple[Job, ...] = ()
    norms: Mapping[Job, tuple[float, float]] = field(default_factory=dict)

    @property
    def wall(self) -> bool:
        return self.experiment.clock.kind == "wall"

    @property
    def client_ranks(self) -> int:
        return int(self.attributes["ranks"]) - 1

    @property
    def clients(self) -> int:
        return int(self.attributes["clients"])

    @property
    def has_digests(self) -> bool:
        return self.attributes.get("digest") == digests.NAME

    @cached_property
    def step_failed(self) -> bool:
        """The run ended in a server step that was not finite: x had moved, and x̂ in part."""
        return str(self.attributes.get("outcome", "")).startswith("failed: server step")

    @cached_property
    def resumed_at(self) -> list[int]:
        """Rows of /updates there were each time that the run went on from a checkpoint; -1: nobody has noted it."""
        return [int(one.get("updates", -1)) for one in self.part("resumed") or []]

    def part(self, name: str) -> Any:
        """An attribute that is JSON; None where there is none."""
        text = self.attributes.get(name)
        return None if text is None else json.loads(text)

    def sender(self, row: np.void) -> int:
        """The rank that sent an update; on the virtual clock the worker that trained it, as /messages says."""
        if int(row["rank"]) != NO_RANK:
            return int(row["rank"])
        with open_trace(self.path, salvage=True) as trace:
            for block in trace.blocks(
                "messages", ["end", "kind", "src", "dst", "client", "sequence", "version"]
            ):
                mine = (block["client"] == row["client"]) & (block["sequence"] == row["participation"])
                mine &= (block["kind"] == KIND_NUMBERS["update"]) & (block["dst"] == 0)
                if mine.any():
                    return int(block["src"][mine][0])
        return 0  # one process


def read(path: Path) -> Recorded:
    """Raises TraceError where the file can't be read, ReplayError where no run can be made of it."""
    with open_trace(path) as trace:
        attributes = dict(trace.attributes)
        if "experiment" not in attributes:
            raise ReplayError(
                f"{path}: it does not say which experiment it is of: the run ended before it began"
            )
        experiment = from_toml(str(attributes["experiment"]), f"{path}: experiment")
        if experiment.server.pull:
            raise ReplayError(
                f"{path}: runs of a server that asks (server.pull) can't be replayed: their clients keep models, and "
                "/updates does not have the steps that each has made"
            )
        updates, steps, ranks = trace.table("updates"), trace.table("steps"), trace.table("ranks")
        _amend_version_1(attributes, experiment, updates)
        served = served_rows(updates)
        versions = updates["version"][served]
        if (np.diff(versions) < 0).any():
            raise ReplayError(f"{path}: /updates is not in the order of use: its versions go back")
        unseen, unknown = unseen_of(experiment, updates[served], trace.blocks("messages", MESSAGE_COLUMNS))
        return Recorded(
            path=path,
            attributes=attributes,
            experiment=experiment,
            updates=updates,
            served=served,
            steps=int(steps["version"].max(initial=0)),
            step_rows=steps,
            hosts={int(row["rank"]): row["host"].decode() for row in ranks},
            threads={int(row["rank"]): int(row["threads"]) for row in ranks},
            x=_final(trace, "x"),
            x_hat=_final(trace, "x_hat"),
            unseen=unseen,
            unknown=unknown,
            norms=_norms(trace) if experiment.trace.encoding_error else {},
        )


def served_rows(updates: np.ndarray) -> np.ndarray:
    """Numbers of the rows of /updates that the server was handed, whether it used them or not."""
    return np.flatnonzero(np.isin(updates["use"], (USED, LATE, REFUSED)))


def unseen_of(
    experiment: Experiment, served: np.ndarray, messages: Iterable[np.ndarray]
) -> tuple[tuple[Training, ...], tuple[Job, ...]]:
    """Recorded.unseen and unknown. served: these rows of /updates. messages: blocks of /messages, read on need."""
    keeps = experiment.clock.kind == "wall" and experiment.client.error_feedback
    wanted = missing(served) if keeps else set()
    found = sent(messages, wanted) if wanted else ()
    return found, tuple(sorted(wanted - {(one.client, one.participation) for one in found}))


def _norms(trace: Trace) -> dict[Job, tuple[float, float]]:
    rows = trace.table("encodings")
    jobs = zip(rows["client"].tolist(), rows["participation"].tolist(), strict=True)
    return dict(
        zip(jobs, zip(rows["norm"].tolist(), rows["quantization_error"].tolist(), strict=True), strict=True)
    )


def _final(trace: Trace, name: str) -> np.ndarray | None:
    vector = trace.final(name)
    return None if vector is None else np.asarray(vector)


def _amend_version_1(attributes: dict[str, Any], experiment: Experiment, updates: np.ndarray) -> None:
    """Version 1 of the schema tells updates that were not used by their weight alone."""
    if int(attributes.get("schema_version", 1)) < FIRST_VERSION:
        updates["use"][updates["weight"] == 0] = LATE if experiment.server.synchronous else ENDED
