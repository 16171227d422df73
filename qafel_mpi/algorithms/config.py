"""Settings of the server, the staleness weight and the downlink."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.setting import BOTH, LARGEST, Settings, only_with


class ServerConfig(Settings):
    """The buffered server. One formula covers all algorithms:

        x^{t+1} = ServerOptimizer(x^t, (1/n) · Σ_i w_i · s(τ_i) · u_i)

    u_i is client i's decoded update: y_P − y_0 (update = "delta"), or y_P − x^t (update = "model", as in FedAsync
    and APPFL). w_i follows from `weighting`, s(τ_i) from the section `staleness`, and n from `reduction`.
    """

    buffer_size: int = Field(
        10,
        ge=1,
        description="Number of uploads that the server collects before it takes a step (K).",
        json_schema_extra=BOTH,
    )
    quorum: int | None = Field(
        None,
        ge=1,
        description="Number of uploads (K_min) with which a step is made once the grace window has passed; without "
        "it every step waits for buffer_size uploads.",
        json_schema_extra=BOTH | only_with(synchronous=False),
    )
    grace_seconds: float = Field(
        0.0,
        ge=0,
        le=LARGEST,
        description="How long a buffer that has its quorum still waits for more uploads, in seconds of the run's "
        "clock.",
        json_schema_extra=BOTH | only_with(synchronous=False),
    )
    optimizer: Literal["sgd", "adam", "amsgrad"] = Field(
        "sgd",
        description="Optimizer that applies the aggregated update to the model; amsgrad is adam with the largest "
        "second moment so far.",
        json_schema_extra=BOTH,
    )
    learning_rate: float = Field(
        1.0,
        gt=0,
        le=LARGEST,
        description="Learning rate of the server's optimizer (η_g).",
        json_schema_extra=BOTH,
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Heavy-ball momentum of the sgd optimizer, without dampening.",
        json_schema_extra=BOTH | only_with(optimizer="sgd"),
    )
    nesterov: bool = Field(
        False,
        description="Nesterov's momentum, as torch has it: the step goes along u + β m with m = β m + u.",
        json_schema_extra=BOTH | only_with(optimizer="sgd"),
    )
    beta1: float = Field(
        0.9,
        ge=0,
        lt=1,
        description="Decay of adam's first moment.",
        json_schema_extra=BOTH | only_with(optimizer=("adam", "amsgrad")),
    )
    beta2: float = Field(
        0.99,
        ge=0,
        lt=1,
        description="Decay of adam's second moment.",
        json_schema_extra=BOTH | only_with(optimizer=("adam", "amsgrad")),
    )
    epsilon: float = Field(
        1e-3,
        gt=0,
        le=LARGEST,
        description="Number that adam adds to the root of its second moment.",
        json_schema_extra=BOTH | only_with(optimizer=("adam", "amsgrad")),
    )
    delay_rate: Literal["constant", "divided", "capped"] = Field(
        "constant",
        description="Learning rate of a step whose stalest update is τ > delay_threshold steps old: divided is "
        "η_g/τ, capped is min(η_g, 1/τ).",
        json_schema_extra=BOTH,
    )
    delay_threshold: int = Field(
        1,
        ge=1,
        description="Largest staleness (τ_c) at which a step has the whole learning rate.",
        json_schema_extra=BOTH | only_with(delay_rate=("divided", "capped")),
    )
    reduction: Literal["mean", "sum", "clients", "with-server"] = Field(
        "mean",
        description="Divisor n of the summed updates: mean divides by the sum of their weights w_i, sum by 1, "
        "clients by the number of clients, with-server by the sum of the weights and 1, as if the server's model "
        "were one more.",
        json_schema_extra=BOTH,
    )
    weighting: Literal["uniform", "examples"] = Field(
        "uniform",
        description="Weight w_i of a client's update: 1, or the number of the client's training examples.",
        json_schema_extra=BOTH,
    )
    update: Literal["delta", "model"] = Field(
        "delta",
        description="What a client uploads: delta is y_P − y_0, model is y_P, from which the server subtracts "
        "its own x^t.",
        json_schema_extra=BOTH,
    )
    calibration: Literal["none", "clients"] = Field(
        "none",
        description="Whether the server remembers each client's last upload, as the payload that came, and steps "
        "along h + (1/n) Σ (u_i − h_i), h the mean over all clients of what it remembers.",
        json_schema_extra=BOTH
        | only_with({"staleness.weight": "constant"}, weighting="uniform", update="delta", synchronous=False),
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=LARGEST,
        description="Largest 2-norm of a decoded update u_i that is used as it is; a longer one is scaled down to it "
        "and counted with its client, in /faults.",
        json_schema_extra=BOTH | only_with(calibration="none"),
    )
    reject_norm: float | None = Field(
        None,
        gt=0,
        le=LARGEST,
        description="Largest 2-norm of a decoded update u_i that is used; a larger one is counted with its client, "
        "in /faults, as is one that is not finite.",
        json_schema_extra=BOTH,
    )
    pull: bool = Field(
        False,
        description="The server asks, as in QuAFL: clients train models of their own meanwhile, and one that is "
        "asked sends its model with as many of its steps as it has made, and mixes the server's into it.",
        json_schema_extra=BOTH,
    )
    synchronous: bool = Field(
        False,
        description="Train in rounds: all clients of a cohort start from the same version, and the server uses no "
        "update of an earlier round.",
        json_schema_extra=BOTH,
    )

    @model_validator(mode="after")
    def _a_quorum_is_less_than_all(self) -> ServerConfig:
        if self.quorum is not None and self.quorum >= self.buffer_size:
            raise ValueError(
                f"quorum = {self.quorum} has no effect with buffer_size = {self.buffer_size}, with which a step is "
                "made at once; set quorum below buffer_size"
            )
        if self.grace_seconds and self.quorum is None:
            raise ValueError("grace_seconds has no effect without quorum: set quorum, below buffer_size")
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov = true has no effect with momentum = 0: set momentum, or nesterov = false"
            )
        return self

    @model_validator(mode="after")
    def _clips_before_it_rejects(self) -> ServerConfig:
        clip, reject = self.clip_norm, self.reject_norm
        if clip is not None and reject is not None and clip >= reject:
            raise ValueError(
                f"clip_norm = {clip:g} has no effect with reject_norm = {reject:g}: what it would scale down is "
                "rejected; set clip_norm below reject_norm"
            )
        return self


MOST_EXPONENT = int(math.log2(LARGEST))  # flsim's s(0) = 2^a is a factor of every fresh update


class StalenessConfig(Settings):
    """The weight s(τ) of an update that is τ server steps old, with a the exponent.

    - constant: 1
    - polynomial: (1 + τ)^(−a), which is FedBuff's with a = 1/2
    - flsim: ((1 + τ)/2)^(−a), so that s(0) = 2^a, as in FLSim and the paper authors' runs
    - nvflare: 1/(1 + √(τ + 1)), as NVFlare 2.9.0 runs: its counter has moved on before it takes the weight
    - cutoff: 1 for τ < R, else 0, as in Ringmaster (arXiv 2501.16168), R the cutoff
    - cosine-exp: ½(1 + cos(πτ/R)) · e^(−aτ) for τ < R, else 0: a cosine gate, as in CGAD (arXiv 2605.09126)
    - rate: T/T₁, T the seconds that this training took and T₁ the setting `seconds`, so that a fast client, which
      sends more updates, moves the model no further than a slow one: Rescaled ASGD (arXiv 2605.13434)

    An update of weight 0 is dropped: it takes no place in the buffer.
    """

    weight: Literal["constant", "polynomial", "flsim", "nvflare", "cutoff", "cosine-exp", "rate"] = Field(
        "polynomial", description="Formula of the weight s(τ).", json_schema_extra=BOTH
    )
    exponent: float = Field(
        0.5,
        ge=0,
        le=MOST_EXPONENT,
        description="Exponent a of the polynomial, flsim and cosine-exp weights.",
        json_schema_extra=BOTH | only_with(weight=("polynomial", "flsim", "cosine-exp")),
    )
    cutoff: int = Field(
        10,
        ge=1,
        description="Staleness R from which on an update is dropped.",
        json_schema_extra=BOTH | only_with(weight=("cutoff", "cosine-exp")),
    )
    seconds: float = Field(
        1.0,
        gt=0,
        le=LARGEST,
        description="Training time T₁ at which an update of the rate weight weighs 1: virtual seconds on the virtual "
        "clock, measured ones on the wall clock.",
        json_schema_extra=BOTH | only_with(weight="rate"),
    )


class DownlinkConfig(CodecConfig):
    """How x^{t+1} reaches the clients: the mode, and the same codec settings as for the uplink.

    - hidden: Q_s(x^{t+1} − x̂^t), as in the paper
    - direct: Q_s(x^{t+1}), naive quantization
    - none: x^{t+1} itself
    """

    mode: Literal["hidden", "direct", "none"] = Field(
        "hidden",
        description="What the server quantizes for the clients: hidden is the difference to the shared hidden state, "
        "direct is the model itself, none sends the model unquantized.",
        json_schema_extra=BOTH,
    )
    delivery: Literal["broadcast", "unicast"] = Field(
        "broadcast",
        description="Whether every server step is sent to all clients, or a client downloads the model when it "
        "starts a training.",
        json_schema_extra=BOTH,
    )

    @model_validator(mode="before")
    @classmethod
    def _full_model_is_the_identity(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("mode") == "none":
            return {"codec": "identity"} | values
        return values

    @model_validator(mode="after")
    def _consistent(self) -> DownlinkConfig:
        if self.mode == "none" and self.codec != "identity":
            raise ValueError(
                f"codec {self.codec!r} has no effect with mode = 'none' (the full model is sent); "
                "use mode = 'hidden' or 'direct', or codec = 'identity'"
            )
        if self.mode == "none" and self.rules:
            raise ValueError(
                "rules have no effect with mode = 'none' (the full model is sent); leave them out"
            )
        if any(one.rotation == "shared" for one in (self, *self.rules)):
            raise ValueError(
                "rotation = 'shared' is for uploads, which the server adds up; leave it out of the downlink"
            )
        if self.mode == "hidden" and self.delivery == "unicast":
            raise ValueError(
                "delivery = 'unicast' would leave out differences that the hidden state needs; "
                "use delivery = 'broadcast', or mode = 'direct' or 'none'"
            )
        return self
