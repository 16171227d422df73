"""Settings of a codec."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from qafel_mpi.own import known_or_own
from qafel_mpi.setting import BOTH, OWN, Settings, only_with, takes

CODEC_NAMES = ("identity", "qsgd", "affine", "topk", "randk", "sign")


class CodecConfig(Settings):
    """The quantizer of the clients' updates, and how fine it is.

    - qsgd: codes of `bits`, which are s = 2^(bits − 1) − 1 levels for each sign, or `levels` = s, with a `scale` per
      `bucket`
    - affine: codes of `bits` in the range of a `bucket`
    - topk, randk: a `fraction` of the coordinates
    - sign: one bit, and a scale per `bucket`
    - identity: no quantization
    - module:Class: a codec of your own, made with `options`
    """

    codec: str = Field(
        "qsgd",
        description="Quantizer of the messages in this direction: a known one, or a class of your own.",
        json_schema_extra=BOTH | takes(f"one of {', '.join(CODEC_NAMES)}, or module:Class"),
    )
    bits: int = Field(
        4,
        ge=1,
        le=32,
        description="Bits of one quantized element: 1 to 16 with qsgd, where 32 stands for no quantization, and "
        "1 to 8 with affine.",
        json_schema_extra=BOTH | only_with(codec=("qsgd", "affine"), levels=None),
    )
    levels: int | None = Field(
        None,
        ge=1,
        le=32767,
        description="Number of qsgd's quantization levels for each sign (s), in place of bits.",
        json_schema_extra=BOTH | only_with(codec="qsgd"),
    )
    scale: Literal["linf", "l2"] = Field(
        "linf",
        description="Norm by which qsgd scales the elements of a bucket.",
        json_schema_extra=BOTH | only_with(codec="qsgd"),
    )
    bucket: int | Literal["tensor", "layer"] = Field(
        512,
        description="Number of elements that share a scale: 'tensor' is the whole vector, 'layer' each "
        "parameter tensor. With affine the default is 'layer'.",
        json_schema_extra=BOTH | only_with(codec=("qsgd", "affine", "sign")),
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the coordinates that topk and randk keep.",
        json_schema_extra=BOTH | only_with(codec=("topk", "randk")),
    )
    entropy: Literal["none", "zstd"] = Field(
        "none", description="Lossless compression of the packed payload.", json_schema_extra=BOTH
    )
    options: dict[str, bool | int | float | str] | None = Field(
        None,
        description="Keyword arguments of the class of a codec of your own.",
        json_schema_extra=BOTH | only_with(codec=OWN) | takes("a table of numbers, texts, true and false"),
    )

    @field_validator("codec")
    @classmethod
    def _known_codec(cls, value: str) -> str:
        return known_or_own(value, CODEC_NAMES)

    @property
    def own(self) -> bool:
        """Whether the codec is a class of the user's, `module:Class`."""
        return ":" in self.codec

    @model_validator(mode="before")
    @classmethod
    def _authors_range(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("codec") == "affine":
            return {"bucket": "layer", **given}
        return given

    @model_validator(mode="after")
    def _fits_the_codec(self) -> CodecConfig:
        if self.codec == "qsgd" and self.levels is None and self.bits > 16 and self.bits != 32:
            raise ValueError(f"bits = {self.bits}: qsgd takes 1 to 16, or 32 for the identity")
        if self.codec == "affine" and self.bits > 8:
            raise ValueError(f"bits = {self.bits}: affine takes 1 to 8")
        if self.codec == "affine" and self.bucket == "tensor":
            raise ValueError(
                "bucket = 'tensor': affine sends 1-D tensors as float32 and takes a range for each other tensor "
                "('layer'), or for so many elements of one"
            )
        if isinstance(self.bucket, int) and self.bucket < 1:
            raise ValueError(f"bucket = {self.bucket}: at least 1 element, or 'tensor' or 'layer'")
        if self.codec in ("topk", "randk") and self.fraction is None:
            raise ValueError(
                f"codec {self.codec!r} needs fraction, the share of coordinates to keep, in (0, 1]"
            )
        return self
