"""Settings of what is learned and of the local training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_STRICT = ConfigDict(frozen=True, extra="forbid")

DATASET_NAMES = ("digits", "mushrooms", "fashion-mnist", "celeba", "cifar10", "synthetic")
MODEL_NAMES = ("logistic", "mlp", "cnn", "resnet18", "transformer")


def _named_or_custom(value: str, names: tuple[str, ...]) -> str:
    if value in names or ":" in value:
        return value
    raise ValueError(f"{value!r} is none of {', '.join(names)}, nor your own as 'module:function'")


class PartitionConfig(BaseModel):
    """How the training examples are dealt to clients. Every client gets at least one.

    iid; contiguous: equal runs in the file's order, the first longer by one; dirichlet: each class is dealt by
    Dirichlet(alpha) shares; shards: label-sorted shards, `shards_per_client` each; powerlaw: sizes follow draws of
    density a·x^(a−1), a = alpha, without label skew; natural: the data set's own users.
    """

    model_config = _STRICT

    kind: Literal["iid", "contiguous", "dirichlet", "shards", "powerlaw", "natural"] = "iid"
    alpha: float | None = Field(None, gt=0, description="dirichlet, powerlaw: smaller is more skewed")
    shards_per_client: int | None = Field(None, ge=1, description="shards")

    @model_validator(mode="after")
    def _fits_the_kind(self) -> PartitionConfig:
        if self.kind in ("dirichlet", "powerlaw"):
            if self.alpha is None:
                raise ValueError(f"kind = {self.kind!r} needs alpha, e.g. 0.5")
        elif self.alpha is not None:
            raise ValueError(
                f"alpha has no effect with kind = {self.kind!r}; it is for dirichlet and powerlaw"
            )
        if self.shards_per_client is not None and self.kind != "shards":
            raise ValueError(f"shards_per_client has no effect with kind = {self.kind!r}")
        return self


class TaskConfig(BaseModel):
    """Data set, model, and how the data are dealt to clients.

    shape and classes say what an example looks like to a model whose data set is synthetic; real data sets know.
    """

    model_config = _STRICT

    dataset: str = "digits"
    model: str = "mlp"
    clients: int = Field(100, ge=1, description="virtual clock; on the wall clock every client rank is one")
    partition: PartitionConfig = PartitionConfig()
    dtype: Literal["float32", "float64"] = "float32"
    hidden: int = Field(64, ge=1, description="mlp: width of its hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="cnn: before the linear layer")
    l2: float | Literal["1/n"] = Field(
        0.0, description="logistic: λ of λ/2·‖x‖²; '1/n' = one over all examples"
    )
    shape: tuple[int, ...] | None = Field(None, description="synthetic: of one example, e.g. [3, 32, 32]")
    classes: int | None = Field(None, ge=2, description="synthetic: number of classes")
    examples: int | None = Field(
        None, ge=2, description="synthetic: training examples; 10,000 if not given, or one a client if more"
    )
    noise: float = Field(1.0, ge=0, description="synthetic: noise beside class means of norm 1 per √feature")

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        return _named_or_custom(value, DATASET_NAMES)

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        return _named_or_custom(value, MODEL_NAMES)

    @field_validator("l2")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        if not isinstance(value, str) and value < 0:
            raise ValueError(f"{value}: at least 0, or '1/n'")
        return value


class ClientConfig(BaseModel):
    """Local training: P steps of SGD, given as epochs over the client's data or as steps."""

    model_config = _STRICT

    learning_rate: float = Field(0.05, gt=0, description="η_ℓ")
    local_epochs: int | None = Field(None, ge=1)
    local_steps: int | None = Field(None, ge=1, description="P")
    batch_size: int | Literal["full"] = 32
    pause_seconds: float = Field(
        0.0,
        ge=0,
        description="wall clock: idle time added to each training, in place of the compute of a larger model or a "
        "slower client: ranks that outnumber the cores then measure communication",
    )
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    together: int | Literal["auto"] = Field(
        "auto",
        description="clients that start from one version and are trained as one batch; 1 = one at a time, "
        "auto = as many as was measured to be fastest for the model",
    )

    @model_validator(mode="after")
    def _one_length(self) -> ClientConfig:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give local_epochs or local_steps, not both")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: at least 1, or 'full'")
        if isinstance(self.together, int) and self.together < 1:
            raise ValueError(f"together = {self.together}: at least 1, or 'auto'")
        return self

    def batch(self, examples: int) -> int:
        """Examples of a batch for a client with so many examples; the last one of an epoch may have fewer."""
        return examples if self.batch_size == "full" else min(self.batch_size, examples)

    def steps(self, examples: int) -> int:
        """P for a client with so many examples; one epoch where the settings give neither."""
        if self.local_steps is not None:
            return self.local_steps
        return (self.local_epochs or 1) * -(-examples // self.batch(examples))
