"""References per system, as in ReFrame: a run fails that leaves [target + lower·|target|, target + upper·|target|].

A fraction of 0 would bound nothing: with target = 0 lower and upper are in the column's own unit.

[[reference]]
system = "node*"                                  # the host of rank 0, with wildcards
bench = "p2p"
where = { operation = "latency", bytes = 16384 }  # the rows meant: these parameters have these values
column = "median_us"
target = 8.0
upper = 0.1                                       # at most 10% above; left out: no bound on this side
unit = "us"

[[reference]]
system = "*"
bench = "p2p"
where = { operation = "bandwidth", bytes = 4194304 }
column = "gb_per_s"
target = 9.0
lower = -0.05
unit = "GB/s"
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.config_text import ConfigError, did_you_mean

# What a row can be of. "run": a run's trace (runs.py).
BENCHES = (
    "backoff",
    "broadcast",
    "chaos",
    "checkpoint",
    "codec",
    "data",
    "ingest",
    "overlap",
    "p2p",
    "peers",
    "progress",
    "run",
    "server",
    "sizes",
    "startup",
    "tracing",
    "virtual",
)


class Reference(BaseModel):
    """One expectation. lower and upper are fractions of |target|, or absolute where that is 0; None: unbounded."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str
    bench: str
    where: dict[str, Any] = Field(default_factory=dict)
    column: str
    target: float = Field(allow_inf_nan=False)
    lower: float | None = Field(None, le=0, allow_inf_nan=False)
    upper: float | None = Field(None, ge=0, allow_inf_nan=False)
    unit: str

    @field_validator("bench")
    @classmethod
    def _is_a_bench(cls, bench: str) -> str:
        if bench not in BENCHES:
            raise ValueError(f"{bench}: {did_you_mean(bench, BENCHES)}")
        return bench

    @model_validator(mode="after")
    def _bounds_something(self) -> Reference:
        if self.lower is None and self.upper is None:
            raise ValueError("neither lower nor upper is given: it would hold whatever happens")
        return self

    def means(self, row: Row, system: str) -> bool:
        return (
            fnmatch(system, self.system)
            and row.bench == self.bench
            and all(row.parameters.get(name) == value for name, value in self.where.items())
        )

    def bounds(self) -> tuple[float, float]:
        """The least and the largest value that is within the reference."""
        scale = abs(self.target) or 1.0
        low = -math.inf if self.lower is None else self.target + scale * self.lower
        high = math.inf if self.upper is None else self.target + scale * self.upper
        return low, high

    @property
    def about(self) -> str:
        return " ".join([self.bench, *(f"{k}={v}" for k, v in self.where.items())])

    def says_nothing_of(self, row: Row) -> str | None:
        """Why no value of this row can be held against it; None: one can."""
        columns = row.columns()
        if isinstance(columns.get(self.column), int | float):
            return None
        numbers = [name for name, value in columns.items() if isinstance(value, int | float)]
        return f"{self.about}: no column {self.column}; {did_you_mean(self.column, numbers)}"

    def problem(self, row: Row) -> str | None:
        """What is wrong with this row by this reference; None where it is within bounds."""
        if why := self.says_nothing_of(row):
            return why
        value = row.columns()[self.column]
        low, high = self.bounds()
        if low <= value <= high:
            return None
        return (
            f"{self.about}: {self.column} is {value:.4g} {self.unit}, the reference is {self.target:.4g}, "
            f"from {low:.4g} to {high:.4g}"
        )


def load(path: Path) -> list[Reference]:
    """Raises ConfigError naming the file and the reference that is wrong."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("reference", [])
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{path}: {error}"]) from None
    found = []
    for number, table in enumerate(tables, 1):
        try:
            found.append(Reference(**table))
        except (ValidationError, TypeError) as error:
            what = error.errors() if isinstance(error, ValidationError) else []
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in what] or [str(error)]
            raise ConfigError([f"{path}: reference {number}: {line}" for line in lines]) from None
    if not found:
        raise ConfigError([f"{path}: no [[reference]] in it"])
    return found


def problems(references: Sequence[Reference], rows: Sequence[Row], system: str) -> list[str]:
    """What misses its reference, a line each. One that judges nothing is a problem too: it would always hold."""
    missed = [
        problem
        for reference in references
        for row in rows
        if reference.means(row, system) and not reference.says_nothing_of(row)
        if (problem := reference.problem(row))
    ]
    return idle(references, rows, system) + missed


def idle(references: Sequence[Reference], rows: Sequence[Row], system: str) -> list[str]:
    """The references that speak of this system and of a bench that ran, but of no row or column, a line each."""
    found = []
    ran = {row.bench for row in rows}
    for reference in references:
        meant = [row for row in rows if reference.means(row, system)]
        if not meant and reference.bench in ran and fnmatch(system, reference.system):
            found.append(f"{reference.bench}: no row has {dict(reference.where)}")
        found += [why for row in meant if (why := reference.says_nothing_of(row))]
    return list(dict.fromkeys(found))


def elsewhere(references: Sequence[Reference], rows: Sequence[Row], system: str) -> str | None:
    """That all references of what ran are other systems', as a remark; None: one is this one's, or none is of it."""
    ran = {row.bench for row in rows}
    systems = [reference.system for reference in references if reference.bench in ran]
    if not systems or any(fnmatch(system, pattern) for pattern in systems):
        return None
    return (
        f"no reference is for this system, {system}; there are some for {', '.join(dict.fromkeys(systems))}"
    )


def system_of(provenance: Mapping[str, Any]) -> str:
    """The host of rank 0."""
    return str(provenance.get("host", ""))
