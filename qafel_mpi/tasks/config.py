"""Settings of what is learned and of the local training."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from qafel_mpi.own import known_or_own
from qafel_mpi.setting import BOTH, LARGEST, OWN, VIRTUAL, WALL, Settings, only_with, takes
from qafel_mpi.tasks.feedback_config import FeedbackSettings
from qafel_mpi.tasks.partition_config import FieldsConfig, PartitionConfig

_STRICT = ConfigDict(frozen=True, extra="forbid")

DATASET_NAMES = ("digits", "mushrooms", "fashion-mnist", "celeba", "cifar10", "stdlib-text", "synthetic")
FILE_FORMATS = ("leaf", "tff", "npz", "parquet")  # data sets from files: FORMAT:PATH
WITH_USERS = ("stdlib-text", *FILE_FORMATS)  # whose clients are the data's own users unless told otherwise
VECTOR_NAMES = ("vectors:cnn", "vectors:resnet18", "vectors:gpt2")
NEURAL = ("mlp", "cnn", "resnet18", "transformer", OWN)  # torch modules
MODEL_NAMES = ("logistic", "mlp", "cnn", "resnet18", "transformer", *VECTOR_NAMES)


class TaskConfig(BaseModel):
    """The data set and the model. shape, classes, examples and noise describe the synthetic data set."""

    model_config = _STRICT
    dataset: str = Field(
        "digits",
        description="Data set to learn from: a known one, files in a known format, or a function of your own.",
        json_schema_extra=BOTH
        | takes(
            f"one of {', '.join(DATASET_NAMES)}, or {', '.join(f'{name}:PATH' for name in FILE_FORMATS)}, "
            "or module:function"
        ),
    )
    model: str = Field(
        "mlp",
        description="Model to train: a known one, or a function of your own.",
        json_schema_extra=BOTH | takes(f"one of {', '.join(MODEL_NAMES)}, or module:function"),
    )
    loss: str | None = Field(
        None,
        description="Loss to minimise, a function of your own of the model's outputs and the targets; without it, "
        "the usual one of the data set's kind of targets.",
        json_schema_extra=BOTH | only_with(model=NEURAL) | takes("module:function"),
    )
    training: str | None = Field(
        None,
        description="Whole local training, a class of your own, in place of a model and local SGD.",
        json_schema_extra=BOTH | takes("module:Class"),
    )
    clients: Annotated[int, Field(ge=1)] | Literal["ranks"] = Field(
        100,
        description="Number of clients that the training examples are dealt to. On the wall clock every client "
        "rank hosts a share of them, balanced by examples, and plays clients drawn from it; 'ranks' makes each "
        "client rank one client.",
        json_schema_extra=BOTH | takes("a whole number >= 1 or, on the wall clock, ranks"),
    )
    partition: PartitionConfig = PartitionConfig()
    fields: FieldsConfig = FieldsConfig()
    dtype: Literal["float32", "float64"] = Field(
        "float32", description="Floating-point type of parameters and updates.", json_schema_extra=BOTH
    )
    hidden: int = Field(
        64,
        ge=1,
        description="Width of the mlp's hidden layer.",
        json_schema_extra=BOTH | only_with(model=("mlp", OWN)),
    )
    dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Dropout probability before the cnn's linear layer, and on each branch of the transformer.",
        json_schema_extra=BOTH | only_with(model=("cnn", "transformer", OWN)),
    )
    norm: Literal["group", "batch"] = Field(
        "group",
        description="Normalisation layers of resnet18: GroupNorm or BatchNorm.",
        json_schema_extra=BOTH | only_with(model=("resnet18", OWN)),
    )
    depth: int = Field(
        2,
        ge=1,
        description="Number of the transformer's blocks.",
        json_schema_extra=BOTH | only_with(model=("transformer", OWN)),
    )
    width: int = Field(
        64,
        ge=1,
        description="Size of the transformer's vector of a token.",
        json_schema_extra=BOTH | only_with(model=("transformer", OWN)),
    )
    heads: int = Field(
        4,
        ge=1,
        description="Number of the transformer's attention heads.",
        json_schema_extra=BOTH | only_with(model=("transformer", OWN)),
    )
    context: int | None = Field(
        None,
        ge=1,
        description="Number of tokens that the transformer sees at once; without it, 64 bytes of stdlib-text, and "
        "the length of the examples of other data sets.",
        json_schema_extra=BOTH | only_with(model=("transformer", OWN)),
    )
    bytes_per_client: int = Field(
        32_768,
        ge=2,
        description="Number of bytes of a module of stdlib-text that are used at most.",
        json_schema_extra=BOTH | only_with(dataset="stdlib-text"),
    )
    l2: float | Literal["1/n"] = Field(
        0.0,
        description="Regularization λ of the logistic model's term λ/2·‖x‖²; '1/n' is one over the number of all "
        "training examples.",
        json_schema_extra=BOTH | only_with(model=("logistic", OWN)) | takes("a number >= 0 or 1/n"),
    )
    shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        None,
        description="Shape of one example of the synthetic data set, for instance [3, 32, 32]; for another data "
        "set, the shape that it must have.",
        json_schema_extra=BOTH | takes("a list, each a whole number >= 1"),
    )
    classes: int | None = Field(
        None,
        ge=2,
        description="Number of classes of the synthetic data set; for another one, the number that it must have.",
        json_schema_extra=BOTH,
    )
    examples: int | None = Field(
        None,
        ge=2,
        description="Number of training examples of the synthetic data set; without it 10,000, or one a client where "
        "there are more clients.",
        json_schema_extra=BOTH | only_with(dataset=("synthetic", OWN)),
    )
    noise: float = Field(
        1.0,
        ge=0,
        le=LARGEST,
        description="Standard deviation of the synthetic data set's noise around class means of norm 1 per root "
        "of the number of features.",
        json_schema_extra=BOTH | only_with(dataset=("synthetic", OWN)),
    )

    @model_validator(mode="after")
    def _users_are_clients(self) -> TaskConfig:
        """Data that come with users are dealt by them where the settings do not say."""
        if self.dataset.partition(":")[0] in WITH_USERS and "partition" not in self.model_fields_set:
            object.__setattr__(self, "partition", PartitionConfig(kind="natural"))
        return self

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, value: str) -> str:
        kind, colon, path = value.partition(":")
        if kind in FILE_FORMATS and colon and not path:
            raise ValueError(f"{value!r} has no path; write {kind}:PATH")
        return known_or_own(value, DATASET_NAMES)

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str) -> str:
        return known_or_own(value, MODEL_NAMES, reserved=("vectors",))

    @field_validator("loss", "training")
    @classmethod
    def _is_own(cls, value: str | None) -> str | None:
        if value is not None and ":" not in value:
            raise ValueError(f"{value!r} is not of the form 'module:name'")
        return value

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> TaskConfig:
        if self.model == "transformer" and self.width % self.heads:
            raise ValueError(f"width = {self.width} is no multiple of heads = {self.heads}")
        return self

    @field_validator("l2")
    @classmethod
    def _not_negative(cls, value: Any) -> Any:
        if not isinstance(value, str) and not 0 <= value <= LARGEST:
            raise ValueError(f"{value}: from 0 to {LARGEST:g}, or '1/n'")
        return value

    def population(self, ranks: int = 1) -> int:
        """How many clients there are. ranks: client ranks of a run on the wall clock."""
        return ranks if self.clients == "ranks" else self.clients


class RateScheduleConfig(Settings):
    """The local learning rate over the server's steps: client.learning_rate times a factor.

    - constant: 1
    - linear: from 1 down to `final` at server step `steps`, and `final` from there on
    - cosine: the same along half a cosine (Loshchilov and Hutter, arXiv 1608.03983)
    """

    kind: Literal["constant", "linear", "cosine"] = Field(
        "constant",
        description="How the local learning rate goes down with the server steps.",
        json_schema_extra=BOTH,
    )
    warmup: int = Field(
        0,
        ge=0,
        description="Server steps over which the learning rate first rises in equal parts to its full value.",
        json_schema_extra=BOTH,
    )
    steps: int | None = Field(
        None,
        ge=1,
        description="Server step at which the schedule ends, the warm-up included.",
        json_schema_extra=BOTH | only_with(kind=("linear", "cosine")),
    )
    final: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Factor at the end of the schedule; 0 where it is left out.",
        json_schema_extra=BOTH | only_with(kind=("linear", "cosine")),
    )

    @model_validator(mode="after")
    def _has_an_end(self) -> RateScheduleConfig:
        if self.kind != "constant" and self.steps is None:
            raise ValueError(f"kind = {self.kind!r} needs steps, the server step at which it ends")
        if self.steps is not None and self.steps <= self.warmup:
            raise ValueError(
                f"steps = {self.steps}: it ends before the warm-up of {self.warmup} steps is over"
            )
        return self

    def factor(self, version: int) -> float:
        """Of a training that starts from x̂^version.

        >>> [RateScheduleConfig(kind="linear", warmup=2, steps=4).factor(version) for version in range(5)]
        [0.5, 1.0, 1.0, 0.5, 0.0]
        """
        if version < self.warmup:
            return (version + 1) / self.warmup
        if self.steps is None:
            return 1.0
        done = min(1.0, (version - self.warmup) / (self.steps - self.warmup))
        left = 1.0 - done if self.kind == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        final = self.final or 0.0
        return final + (1.0 - final) * left


class ClientConfig(FeedbackSettings):
    """Local training: P optimizer steps, given as epochs over the client's data or as a number of steps."""

    learning_rate: float = Field(
        0.05,
        gt=0,
        le=LARGEST,
        description="Learning rate of the local optimizer (η_ℓ).",
        json_schema_extra=BOTH,
    )
    schedule: RateScheduleConfig = RateScheduleConfig()
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd",
        description="Local optimizer; its state starts from zero in each training. Logistic regression has sgd.",
        json_schema_extra=BOTH | only_with({"task.model": ("logistic", *NEURAL)}),
    )
    betas: tuple[float, float] | None = Field(
        None,
        description="Decay rates of AdamW's two averages; [0.9, 0.999] where they are left out.",
        json_schema_extra=BOTH | only_with(optimizer="adamw") | takes("two numbers >= 0 and < 1"),
    )
    epsilon: float | None = Field(
        None,
        gt=0,
        le=LARGEST,
        description="Number that AdamW adds to its denominator; 1e-8 where it is left out.",
        json_schema_extra=BOTH | only_with(optimizer="adamw"),
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        le=LARGEST,
        description="Largest 2-norm of a step's gradient; a longer one is scaled down to it.",
        json_schema_extra=BOTH | only_with({"task.model": NEURAL}),
    )
    trainable: str | None = Field(
        None,
        description="Regular expression: only the parameters in whose names it is found are trained and sent. The "
        "others keep the values that the model was made with.",
        json_schema_extra=BOTH
        | only_with({"task.model": NEURAL})
        | takes("a regular expression, e.g. head|adapter"),
    )
    autocast: Literal["bfloat16"] | None = Field(
        None,
        description="Type that the forward pass of a training computes in where torch takes it to be safe; "
        "parameters and updates keep task.dtype. It is meant for GPUs.",
        json_schema_extra=BOTH | only_with({"task.model": NEURAL, "task.dtype": "float32"}),
    )
    local_epochs: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Passes over the client's data in each training; one where neither this nor local_steps "
        "is given.",
        json_schema_extra=BOTH,
    )
    local_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Number of optimizer steps in each training (P), in place of local_epochs.",
        json_schema_extra=BOTH,
    )
    batch_size: int | Literal["full"] = Field(
        32,
        description="Examples in a mini-batch; 'full' takes all of the client's examples.",
        json_schema_extra=BOTH | takes("a whole number >= 1 or full"),
    )
    draw: Literal["uniform", "examples", "permutation"] = Field(
        "uniform",
        description="How a client rank draws the client that it plays next from its share: uniformly, in "
        "proportion to the clients' examples, or each client once before any plays again.",
        json_schema_extra=WALL,
    )
    pause_seconds: float = Field(
        0.0,
        ge=0,
        description="Idle time added to each training, in seconds; it stands for the compute of a larger model or a "
        "slower client where more ranks than cores are to measure communication.",
        json_schema_extra=WALL,
    )
    momentum: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Momentum of the local SGD, which starts from zero in each training.",
        json_schema_extra=BOTH | only_with({"task.model": ("logistic", *NEURAL)}, optimizer="sgd"),
    )
    weight_decay: float = Field(
        0.0,
        ge=0,
        le=LARGEST,
        description="Weight decay of the local optimizer: added to the gradient by sgd, decoupled in adamw.",
        json_schema_extra=BOTH | only_with({"task.model": ("logistic", *NEURAL)}),
    )
    together: int | Literal["auto"] = Field(
        "auto",
        description="Number of clients that start from the same version and are trained as one batch; 'auto' "
        "takes as many as was measured to be fastest for the model.",
        json_schema_extra=VIRTUAL | takes("a whole number >= 1 or auto"),
    )

    @model_validator(mode="after")
    def _one_length(self) -> ClientConfig:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give local_epochs or local_steps, not both")
        if isinstance(self.batch_size, int) and self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size}: at least 1, or 'full'")
        if isinstance(self.together, int) and not 1 <= self.together <= 1 << 16:
            raise ValueError(f"together = {self.together}: at least 1, or 'auto'; 65,536 at most")
        return self

    @field_validator("betas")
    @classmethod
    def _are_shares(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and not all(0 <= beta < 1 for beta in value):
            raise ValueError(f"{list(value)}: each is at least 0 and below 1")
        return value

    @field_validator("trainable")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from None
        return value

    def rate_at(self, version: int) -> float:
        """η_ℓ of a training that starts from x̂^version."""
        return self.learning_rate * self.schedule.factor(version)

    def batch(self, examples: int) -> int:
        """Examples of a batch for a client with so many examples; the last one of an epoch may have fewer."""
        return examples if self.batch_size == "full" else min(self.batch_size, examples)

    def steps(self, examples: int, least: int = 1) -> int:
        """P for a client with so many examples; one epoch where the settings give neither.

        least: a batch of fewer examples joins the one before it.
        """
        if self.local_steps is not None:
            return self.local_steps
        size = self.batch(examples)
        short = 0 < examples % size < least and examples > size
        return (self.local_epochs or 1) * (-(-examples // size) - short)
