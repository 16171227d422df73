"""Settings of the server, the staleness weight and the downlink."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from qafel_mpi.codecs.config import CodecConfig

_STRICT = ConfigDict(frozen=True, extra="forbid")


class ServerConfig(BaseModel):
    """The buffered server. One formula covers the family:

        x^{t+1} = ServerOptimizer(x^t, (1/n) · Σ_i w_i · s(τ_i) · u_i)

    u_i is client i's decoded update, y_P − y_0 (update = "delta"), or y_P − x^t (update = "model", FedAsync
    and APPFL); w_i = 1 or the client's examples; n is K, 1, the number of clients, or Σ w_i (reduction).
    """

    model_config = _STRICT

    buffer_size: int = Field(10, ge=1, description="K: uploads per server step")
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = Field(1.0, gt=0, description="η_g")
    momentum: float = Field(0.0, ge=0, lt=1, description="sgd: heavy ball, without dampening")
    beta1: float = Field(0.9, ge=0, lt=1, description="adam")
    beta2: float = Field(0.99, ge=0, lt=1, description="adam")
    epsilon: float = Field(1e-3, gt=0, description="adam: added to the root of the second moment")
    reduction: Literal["mean", "sum", "clients"] = "mean"
    weighting: Literal["uniform", "examples"] = "uniform"
    update: Literal["delta", "model"] = "delta"
    synchronous: bool = Field(False, description="rounds: every client of a cohort starts from one version")


class StalenessConfig(BaseModel):
    """The weight s(τ) of an update that is τ server steps old.

    constant 1; polynomial (1 + τ)^(−a), FedBuff's with a = 1/2; flsim ((1 + τ)/2)^(−a), so s(0) = 2^a,
    as in FLSim and the authors' runs; nvflare 1/(1 + √τ).
    """

    model_config = _STRICT

    weight: Literal["constant", "polynomial", "flsim", "nvflare"] = "polynomial"
    exponent: float = Field(0.5, ge=0, description="a")


class DownlinkConfig(CodecConfig):
    """How x^{t+1} reaches the clients.

    hidden: Q_s(x^{t+1} − x̂^t), the paper; direct: Q_s(x^{t+1}), naive; none: x^{t+1} itself in full.
    broadcast: every server step's payload goes to every client; unicast: a client downloads when it starts.
    """

    mode: Literal["hidden", "direct", "none"] = "hidden"
    delivery: Literal["broadcast", "unicast"] = "broadcast"

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
        if self.mode == "hidden" and self.delivery == "unicast":
            raise ValueError(
                "delivery = 'unicast' would leave out differences that the hidden state needs; "
                "use delivery = 'broadcast', or mode = 'direct' or 'none'"
            )
        return self
