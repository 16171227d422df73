"""What a trace says of a run that is to be done again: its updates in the order of use, its steps, its end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.config import Experiment, from_toml
from qafel_mpi.drivers import digests
from qafel_mpi.trace.file import Trace
from qafel_mpi.trace.reader import open_trace
from qafel_mpi.trace_schema import ENDED, KIND_NUMBERS, LATE, NO_RANK, USED

FIRST_VERSION = 2  # of the schema, that has digests


class ReplayError(Exception):
    """A trace that can't be replayed here; the message says what differs and what to do."""


@dataclass(frozen=True)
class Recorded:
    """A run's trace, without its messages.

    updates: all rows of /updates. served: the numbers of those that were handed to the server, in order. steps:
    server steps that it made, each after the last of `served` that came at the version before.
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
        served = np.flatnonzero((updates["use"] == USED) | (updates["use"] == LATE))
        versions = updates["version"][served]
        if (np.diff(versions) < 0).any():
            raise ReplayError(f"{path}: /updates is not in the order of use: its versions go back")
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
        )


def _final(trace: Trace, name: str) -> np.ndarray | None:
    vector = trace.final(name)
    return None if vector is None else np.asarray(vector)


def _amend_version_1(attributes: dict[str, Any], experiment: Experiment, updates: np.ndarray) -> None:
    """Version 1 of the schema tells updates that were not used by their weight alone."""
    if int(attributes.get("schema_version", 1)) < FIRST_VERSION:
        updates["use"][updates["weight"] == 0] = LATE if experiment.server.synchronous else ENDED
