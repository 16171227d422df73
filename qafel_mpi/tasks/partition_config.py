"""Settings of how the training examples are dealt to the clients, and of what files call their parts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qafel_mpi.setting import BOTH, Settings, only_with

_WITH_ALPHA = ("dirichlet", "dirichlet-clients", "powerlaw")


class PartitionConfig(Settings):
    """How the training examples are dealt to the clients. Every client gets at least one.

    - iid: shuffled, then in equal shares
    - contiguous: equal runs in the file's order, the first ones longer by one
    - dirichlet: each class in shares drawn from Dirichlet(alpha), class by class (Yurochkin et al. 2019); clients
      differ in size
    - dirichlet-clients: equal sizes; each client's classes drawn from Dirichlet(alpha·p), with p the classes' shares
      of all training examples (Hsu et al. 2019)
    - shards: shards of the label-sorted examples, `shards_per_client` each
    - powerlaw: shares that follow draws of density a·x^(a−1), a = alpha, without label skew
    - natural: the data set's own users
    """

    kind: Literal["iid", "contiguous", "dirichlet", "dirichlet-clients", "shards", "powerlaw", "natural"] = (
        Field(
            "iid", description="How the training examples are dealt to the clients.", json_schema_extra=BOTH
        )
    )
    alpha: float | None = Field(
        None,
        gt=0,
        description="Skew of the dirichlet, dirichlet-clients and powerlaw partitions: the smaller, the more skewed.",
        json_schema_extra=BOTH | only_with(kind=_WITH_ALPHA),
    )
    shards_per_client: int | None = Field(
        None,
        ge=1,
        description="Number of label-sorted shards that each client gets.",
        json_schema_extra=BOTH | only_with(kind="shards"),
    )
    by_label: bool = Field(
        False,
        description="Number the clients by the mean label of their examples, the least first. It makes a trend of "
        "their speeds (clock.duration.speed_trend) one of their labels.",
        json_schema_extra=BOTH,
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> PartitionConfig:
        if self.kind in _WITH_ALPHA and self.alpha is None:
            raise ValueError(f"kind = {self.kind!r} needs alpha, e.g. 0.5")
        return self


class FieldsConfig(Settings):
    """Names in data sets from files in the formats tff, npz and parquet: of a field, an array, a column."""

    x: str | None = Field(
        None,
        description="What holds the examples; without it x, or what is left beside y and client.",
        json_schema_extra=BOTH,
    )
    y: str | None = Field(
        None,
        description="What holds the targets; without it y, or label.",
        json_schema_extra=BOTH,
    )
    client: str | None = Field(
        None,
        description="What holds the client of an example, in the formats npz and parquet; without it client.",
        json_schema_extra=BOTH,
    )
