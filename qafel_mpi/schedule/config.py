"""Settings of the clock: real time, or virtual time with its arrivals and durations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from qafel_mpi.setting import BOTH, VIRTUAL, Settings, only_with, takes

LONGEST_MEAN_S = 1e100  # of a training: beyond, sums of a run's times lose their meaning


class DurationConfig(Settings):
    """How long a client's training takes, in virtual seconds: `scale` times a draw from the distribution.

    - half-normal: |N(0, 1)|
    - exponential: with mean 1
    - log-normal: exp(N(0, sigma²))
    - constant: 1
    - file: one of the file's numbers, drawn uniformly

    With `speed_sigma` each client has a factor of its own for the whole run, log-normal with mean 1 over the clients.
    """

    kind: Literal["half-normal", "exponential", "log-normal", "constant", "file"] = Field(
        "half-normal",
        description="Distribution of the training durations.",
        json_schema_extra=VIRTUAL | only_with({"clock.staleness": None}),
    )
    scale: float = Field(
        1.0,
        gt=0,
        description="Factor on every duration, in virtual seconds.",
        json_schema_extra=VIRTUAL | only_with({"clock.staleness": None}),
    )
    sigma: float = Field(
        1.0,
        gt=0,
        description="Standard deviation of the logarithm of a log-normal duration.",
        json_schema_extra=VIRTUAL | only_with({"clock.staleness": None}, kind="log-normal"),
    )
    path: Path | None = Field(
        None,
        description="File of durations, one positive number a line.",
        json_schema_extra=VIRTUAL
        | only_with({"clock.staleness": None}, kind="file")
        | takes("the path of a text file"),
    )
    speed_sigma: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Spread of the clients' own speeds: standard deviation of the logarithm of a client's factor.",
        json_schema_extra=VIRTUAL | only_with({"clock.staleness": None}),
    )
    speed_trend: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Correlation of the logarithm of a client's factor with the client's number, by its normal "
        "score; at 1 the last client is the slowest. With task.partition.by_label the numbers follow the labels.",
        json_schema_extra=VIRTUAL | only_with({"clock.staleness": None}),
    )

    @model_validator(mode="after")
    def _file_is_named(self) -> DurationConfig:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("path and kind = 'file' go together")
        return self

    @model_validator(mode="after")
    def _a_trend_needs_a_spread(self) -> DurationConfig:
        if self.speed_trend and not self.speed_sigma:
            raise ValueError("speed_trend has no effect with speed_sigma = 0: set speed_sigma, e.g. 1.0")
        return self

    @model_validator(mode="after")
    def _has_a_mean(self) -> DurationConfig:
        """Rates follow from it, and times are sums of durations."""
        mean_s = self.mean()
        if mean_s is not None and not 1 / LONGEST_MEAN_S < mean_s < LONGEST_MEAN_S:
            given = f"scale = {self.scale}" + (f" and sigma = {self.sigma}" * (self.kind == "log-normal"))
            raise ValueError(
                f"{given} make a mean duration of {mean_s:g} s; it must be between {1 / LONGEST_MEAN_S:g} and "
                f"{LONGEST_MEAN_S:g} s"
            )
        return self

    def mean(self) -> float | None:
        """E[duration] without the clients' own speeds, inf where a float can't hold it; None for a file."""
        try:
            log_normal = math.exp(self.sigma**2 / 2) if self.kind == "log-normal" else 1.0
        except OverflowError:
            log_normal = math.inf
        means = {
            "half-normal": math.sqrt(2 / math.pi),
            "exponential": 1.0,
            "log-normal": log_normal,
            "constant": 1.0,
        }
        mean = means.get(self.kind)
        return None if mean is None else mean * self.scale


class StalenessControl(Settings):
    """Prescribed staleness, in place of a schedule of starts and durations: left out unless this table is given.

    An update starts from the version that is τ steps old when it is used, and from version 0 at the oldest.

    - constant: τ = max for all updates
    - uniform: τ drawn uniformly from 0 to max
    """

    kind: Literal["constant", "uniform"] = Field(
        description="Whether every update has the largest staleness, or one drawn uniformly up to it.",
        json_schema_extra=VIRTUAL,
    )
    max: int = Field(
        ge=0, le=100_000, description="Largest staleness, in server steps (τ_max).", json_schema_extra=VIRTUAL
    )


class ClockConfig(Settings):
    """Real or virtual time, and the schedule of the virtual one.

    On the wall clock every client rank trains without pause. The virtual clock is an event-driven simulation, in
    which clients start like this:

    - constant: one start every 1/rate virtual seconds
    - poisson: exponential gaps with mean 1/rate
    - always: exactly `concurrency` clients train at any time, and after a finish another one starts at once

    Without `rate`, it is the rate that gives `concurrency` clients on average, by Little's law.
    """

    kind: Literal["wall", "virtual"] = Field(
        "wall",
        description="Whether the run takes place in real time over MPI or in simulated time; a single process always "
        "simulates.",
        json_schema_extra=BOTH,
    )
    start: Literal["constant", "poisson", "always"] = Field(
        "constant",
        description="When clients start their trainings.",
        json_schema_extra=VIRTUAL
        | only_with({"server.synchronous": False, "server.pull": False}, staleness=None),
    )
    rate: float | None = Field(
        None,
        gt=0,
        description="Training starts per virtual second; without it the rate follows from concurrency.",
        json_schema_extra=VIRTUAL
        | only_with(
            {"server.synchronous": False, "server.pull": False}, staleness=None, start=("constant", "poisson")
        ),
    )
    concurrency: int | None = Field(
        None,
        ge=1,
        description="Number of clients that train at the same time, on average or, with start = 'always', exactly; "
        "without it 10 · buffer_size, all clients with 'always', and buffer_size in synchronous rounds.",
        json_schema_extra=VIRTUAL | only_with({"server.pull": False}, staleness=None),
    )
    limit: int | None = Field(
        None,
        ge=1,
        description="Largest number of clients that train at the same time; a start beyond it waits for a finish.",
        json_schema_extra=VIRTUAL
        | only_with(
            {"server.synchronous": False, "server.pull": False}, staleness=None, start=("constant", "poisson")
        ),
    )
    duration: DurationConfig = DurationConfig()
    replacement: bool = Field(
        True,
        description="Draw clients with replacement, so that one may start again while it still trains.",
        json_schema_extra=VIRTUAL
        | only_with(
            {"server.synchronous": False, "server.pull": False}, staleness=None, start=("constant", "poisson")
        ),
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the started trainings whose update never arrives.",
        json_schema_extra=VIRTUAL | only_with(staleness=None),
    )
    ask_seconds: float = Field(
        1.0,
        gt=0,
        le=LONGEST_MEAN_S,
        description="Virtual seconds from one question of a server that asks to the next.",
        json_schema_extra=VIRTUAL | only_with({"server.pull": True}),
    )
    staleness: StalenessControl | None = None
    restart_before_step: bool = Field(
        True,
        description="With start = 'always', a client restarts before the server step that its own update completes, "
        "not after it.",
        json_schema_extra=VIRTUAL
        | only_with({"server.synchronous": False, "server.pull": False}, staleness=None, start="always"),
    )
    flush_epoch: bool = Field(
        False,
        description="Let the server step with a partly filled buffer after every task.clients finished trainings, as "
        "the paper authors' simulator does.",
        json_schema_extra=VIRTUAL | only_with(staleness=None),
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClockConfig:
        if self.rate is not None and self.concurrency is not None:
            raise ValueError("give rate or concurrency, not both: the one follows from the other")
        return self

    def starts_per_second(self, default_concurrency: int, mean_s: float) -> float:
        """The start rate λ; by Little's law concurrency = λ · E[duration]. mean_s: E[duration]."""
        return self.rate or (self.concurrency or default_concurrency) / mean_s
