"""Sections of an experiment that no lower floor has a use for: when it ends, evaluation, what the trace records."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qafel_mpi.setting import BOTH, VIRTUAL, Settings


class StopConfig(Settings):
    """When a run ends. At least one is required; the run ends at the one that is reached first."""

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


class EvaluationConfig(Settings):
    """How often x^t is evaluated, and on how many examples. This never changes what the run computes."""

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


class TraceConfig(Settings):
    """What the trace records besides messages, updates and steps, and how soon it is on disk."""

    flush_seconds: float = Field(
        1.0,
        ge=0,
        description="Longest time in seconds before a rank's new rows are written to disk.",
        json_schema_extra=BOTH,
    )
    on_error: Literal["stop", "go on"] = Field(
        "stop",
        description="What a run does where the disk refuses a part of its trace: stop ends the run with exit code 3, "
        "go on trains to the end without what could not be written, which stderr and the trace name.",
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
    digests: bool = Field(
        True,
        description="Record a 64-bit digest of each update's payload, with which `qafel-mpi replay` finds the first "
        "update that a replay computes otherwise.",
        json_schema_extra=BOTH,
    )
