"""Settings of the clock: real time, or virtual time with its arrivals and durations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid")


class DurationConfig(BaseModel):
    """How long a client's training takes, in virtual seconds: `scale` times the distribution.

    half-normal: |N(0, 1)|; exponential, mean 1; log-normal: exp(N(0, sigma)); constant: 1; file: one positive number
    a line, drawn uniformly. speed_sigma: each client is slower or faster by a factor of its own, for ever: log-normal
    with this sigma, of mean 1 over the clients.
    """

    model_config = _STRICT

    kind: Literal["half-normal", "exponential", "log-normal", "constant", "file"] = "half-normal"
    scale: float = Field(1.0, gt=0, description="the distribution's scale, in virtual seconds")
    sigma: float = Field(1.0, gt=0, description="log-normal: standard deviation of the logarithm")
    path: Path | None = Field(None, description="file: the durations")
    speed_sigma: float = Field(0.0, ge=0, description="spread of the clients' own speeds")

    @model_validator(mode="after")
    def _file_is_named(self) -> DurationConfig:
        if (self.kind == "file") != (self.path is not None):
            raise ValueError("path and kind = 'file' go together")
        return self

    def mean(self) -> float | None:
        """E[duration] without the clients' own speeds; None for a file."""
        means = {
            "half-normal": math.sqrt(2 / math.pi),
            "exponential": 1.0,
            "log-normal": math.exp(self.sigma**2 / 2),
            "constant": 1.0,
        }
        mean = means.get(self.kind)
        return None if mean is None else mean * self.scale


class StalenessControl(BaseModel):
    """Staleness by decree: an update starts from the version that is τ steps old when it is used.

    constant: τ = max for all; uniform: τ uniform in 0 .. max. Early updates start from version 0 at the oldest.
    """

    model_config = _STRICT

    kind: Literal["constant", "uniform"]
    max: int = Field(ge=0, description="τ_max, in server steps")


class ClockConfig(BaseModel):
    """wall: real time over MPI, every client rank trains without pause. virtual: an event-driven simulation.

    start: constant (one start every 1/rate), poisson (exponential gaps), or always (exactly `concurrency` clients
    train at any time: after a finish one that does not train starts at once; with as many as there are, each client
    restarts itself). rate: starts per virtual second; left out, it is the rate that gives `concurrency` clients on
    average, by Little's law. limit: a bound on those that train at the same time; starts wait for a finish.
    """

    model_config = _STRICT

    kind: Literal["wall", "virtual"] = "wall"
    start: Literal["constant", "poisson", "always"] = "constant"
    rate: float | None = Field(None, gt=0, description="starts per virtual second")
    concurrency: int | None = Field(None, ge=1, description="clients that train at the same time")
    limit: int | None = Field(None, ge=1, description="starts wait while so many clients train")
    duration: DurationConfig = DurationConfig()
    replacement: bool = Field(True, description="draw clients with replacement: a busy one may start again")
    dropout: float = Field(0.0, ge=0, lt=1, description="share of starts that never report")
    staleness: StalenessControl | None = None
    restart_before_step: bool = Field(
        True, description="always: a client restarts before the server step that its own update completes"
    )
    flush_epoch: bool = Field(
        False,
        description="a partly filled buffer is used after every `clients` ends (the authors' simulator)",
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClockConfig:
        if self.start == "always" and self.rate is not None:
            raise ValueError("rate has no effect with start = 'always'; give concurrency")
        if self.start == "always" and self.limit is not None:
            raise ValueError("limit has no effect with start = 'always'; give concurrency")
        if self.rate is not None and self.concurrency is not None:
            raise ValueError("give rate or concurrency, not both: the one follows from the other")
        return self

    def starts_per_second(self, default_concurrency: int, mean_s: float) -> float:
        """The start rate λ; by Little's law concurrency = λ · E[duration]. mean_s: E[duration]."""
        return self.rate or (self.concurrency or default_concurrency) / mean_s
