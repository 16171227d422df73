"""Settings of a codec, and of the codecs that single tensors have in its place."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from qafel_mpi.own import known_or_own
from qafel_mpi.setting import BOTH, OWN, Settings, only_with, takes

CODEC_NAMES = ("identity", "qsgd", "affine", "topk", "randk", "sign", "eden", "lattice", "fp4", "fixed")

LARGEST_BUCKET = 2**40  # elements: more than any memory holds
EDEN_BUCKETS = (128, 256, 512, 1024, 2048, 4096)


class QuantizerConfig(Settings):
    """A quantizer, and what is done to the vector before it."""

    codec: str = Field(
        "qsgd",
        description="Quantizer of the messages in this direction: a known one, or a class of your own.",
        json_schema_extra=BOTH | takes(f"one of {', '.join(CODEC_NAMES)}, or module:Class"),
    )
    bits: int = Field(
        4,
        ge=1,
        le=32,
        description="Bits of one quantized element: 1 to 16 with qsgd, where 32 stands for no quantization, "
        "1 to 8 with affine, 1 to 4 with eden, 1 to 16 with lattice, and 2 to 8 with fixed.",
        json_schema_extra=BOTH | only_with(codec=("qsgd", "affine", "eden", "lattice", "fixed"), levels=None),
    )
    levels: int | None = Field(
        None,
        ge=1,
        le=32767,
        description="Number of qsgd's quantization levels for each sign (s), in place of bits.",
        json_schema_extra=BOTH | only_with(codec="qsgd"),
    )
    scale: Literal["linf", "l2", "unbiased", "least-squares"] = Field(
        "linf",
        description="What a bucket's scale is. With qsgd: the norm that it is, linf or l2. With eden: unbiased, or "
        "least-squares for the least error; the default is unbiased.",
        json_schema_extra=BOTH | only_with(codec=("qsgd", "eden")),
    )
    bucket: int | Literal["tensor", "layer"] = Field(
        512,
        description="Number of elements that share a scale: 'tensor' is the whole vector, 'layer' each "
        "parameter tensor. With affine the default is 'layer'. With eden it is a power of two from 128 to 4096, and "
        "those that share a scale lie 16 apart.",
        json_schema_extra=BOTH | only_with(codec=("qsgd", "affine", "sign", "eden", "lattice")),
    )
    fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of the coordinates that topk and randk keep.",
        json_schema_extra=BOTH | only_with(codec=("topk", "randk")),
    )
    spacing: float | None = Field(
        None,
        ge=1e-12,
        le=1e6,
        description="Distance between lattice's points, and between fixed's levels (s). With lattice elements may be "
        "up to s·(2^bits − 1)/2 away from what they are decoded near; a bucket in which one is farther is counted, "
        "and not used. With fixed elements beyond s·(2^(bits − 1) − 1) are clipped and counted.",
        json_schema_extra=BOTH | only_with(codec=("lattice", "fixed")),
    )
    rotations: Literal[1, 2] = Field(
        1,
        description="Number of eden's rotations: 2 lessen the bias that heavy tails leave, and take more time.",
        json_schema_extra=BOTH | only_with(codec="eden"),
    )
    rotation: Literal["message", "shared"] = Field(
        "message",
        description="Whether every message is rotated by a key of its own, or all uploads of a run by one, so that "
        "the server adds them up as they are and turns the sum back once a step.",
        json_schema_extra=BOTH | only_with(codec="eden", rotations=1),
    )
    format: Literal["mxfp4", "nvfp4"] = Field(
        "mxfp4",
        description="Layout of fp4's 4-bit floats: mxfp4 has a power of two for each 32, nvfp4 an E4M3 number for "
        "each 16 and a float32 for all.",
        json_schema_extra=BOTH | only_with(codec="fp4"),
    )
    rounding: Literal["stochastic", "nearest"] = Field(
        "stochastic",
        description="How fp4 rounds: stochastic is unbiased, nearest is what the formats' standards convert with.",
        json_schema_extra=BOTH | only_with(codec="fp4"),
    )
    transform: Literal["none", "rotation"] = Field(
        "none",
        description="What is done to the vector before the quantizer: rotation is a random one of 512 elements each.",
        json_schema_extra=BOTH | only_with(codec=("qsgd", "affine", "topk", "randk", "sign", "fp4")),
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

    @property
    def draws(self) -> bool:
        """Whether it takes random numbers from the message's key."""
        exact = self.codec in ("identity", "affine", "topk", "sign")
        exact = exact or (self.codec == "fp4" and self.rounding == "nearest")
        return self.transform != "none" or not exact

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_codec(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("codec") == "affine":
            return {"bucket": "layer", **given}
        if isinstance(given, dict) and given.get("codec") == "eden":
            return {"scale": "unbiased", **given}
        return given

    @model_validator(mode="after")
    def _fits_the_codec(self) -> QuantizerConfig:
        if self.codec == "qsgd" and self.levels is None and self.bits > 16 and self.bits != 32:
            raise ValueError(f"bits = {self.bits}: qsgd takes 1 to 16, or 32 for the identity")
        if self.codec == "affine" and self.bits > 8:
            raise ValueError(f"bits = {self.bits}: affine takes 1 to 8")
        if self.codec == "eden":
            self._fits_eden()
        elif self.codec == "qsgd" and self.scale not in ("linf", "l2"):
            raise ValueError(f"scale = {self.scale!r}: qsgd takes linf or l2")
        if self.codec == "affine" and self.bucket == "tensor":
            raise ValueError(
                "bucket = 'tensor': affine sends 1-D tensors as float32 and takes a range for each other tensor "
                "('layer'), or for so many elements of one"
            )
        if isinstance(self.bucket, int) and not 1 <= self.bucket <= LARGEST_BUCKET:
            raise ValueError(
                f"bucket = {self.bucket}: from 1 to {LARGEST_BUCKET} elements, or 'tensor' or 'layer'"
            )
        if self.codec == "lattice":
            self._fits_lattice()
        if self.codec == "fixed":
            self._fits_fixed()
        if self.codec in ("topk", "randk") and self.fraction is None:
            raise ValueError(
                f"codec {self.codec!r} needs fraction, the share of coordinates to keep, in (0, 1]"
            )
        return self

    def _fits_eden(self) -> None:
        if self.bits > 4:
            raise ValueError(f"bits = {self.bits}: eden takes 1 to 4")
        if self.scale not in ("unbiased", "least-squares"):
            raise ValueError(f"scale = {self.scale!r}: eden takes unbiased or least-squares")
        if self.bucket not in EDEN_BUCKETS:
            raise ValueError(f"bucket = {self.bucket!r}: eden takes {', '.join(map(str, EDEN_BUCKETS))}")

    def _fits_fixed(self) -> None:
        if self.spacing is None:
            raise ValueError("codec 'fixed' needs spacing, the distance between its levels")
        if not 2 <= self.bits <= 8:
            raise ValueError(f"bits = {self.bits}: fixed takes 2 to 8")

    def _fits_lattice(self) -> None:
        if self.spacing is None:
            raise ValueError("codec 'lattice' needs spacing, the distance between its points")
        if self.bits > 16:
            raise ValueError(f"bits = {self.bits}: lattice takes 1 to 16")
        if self.bucket == "layer":
            raise ValueError("bucket = 'layer': lattice takes a number of elements, or 'tensor'")


class RuleConfig(QuantizerConfig):
    """A codec for some tensors. A tensor is one of them where all conditions that the rule gives hold for it."""

    codec: str = Field(
        description="Quantizer of these tensors.",
        json_schema_extra=BOTH | takes(f"one of {', '.join(CODEC_NAMES)}, or module:Class"),
    )
    match: str | None = Field(
        None,
        description="A regular expression that the tensor's name has a match for, anywhere in it.",
        json_schema_extra=BOTH | takes("a regular expression"),
    )
    min_elements: int | None = Field(
        None, ge=1, description="Least number of elements of the tensor.", json_schema_extra=BOTH
    )
    max_elements: int | None = Field(
        None, ge=1, description="Largest number of elements of the tensor.", json_schema_extra=BOTH
    )
    max_rank: int | None = Field(
        None,
        ge=0,
        description="Largest number of the tensor's dimensions: 1 for biases and norms.",
        json_schema_extra=BOTH,
    )

    @field_validator("match")
    @classmethod
    def _expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"match = {value!r}: not a regular expression: {error}") from None
        return value

    @model_validator(mode="after")
    def _has_a_condition(self) -> RuleConfig:
        if not self.conditions:
            raise ValueError(
                f"a rule without a condition would take all tensors; give {', '.join(_CONDITIONS)}"
            )
        return self

    @property
    def conditions(self) -> dict[str, Any]:
        """Those that it gives."""
        return {name: given for name in _CONDITIONS if (given := getattr(self, name)) is not None}

    def takes(self, name: str, shape: tuple[int, ...], elements: int) -> bool:
        """Whether a tensor is one of the rule's."""
        return not (
            (self.match is not None and not re.search(self.match, name))
            or (self.min_elements is not None and elements < self.min_elements)
            or (self.max_elements is not None and elements > self.max_elements)
            or (self.max_rank is not None and len(shape) > self.max_rank)
        )


_CONDITIONS = ("match", "min_elements", "max_elements", "max_rank")


class CodecConfig(QuantizerConfig):
    """The quantizer of the clients' updates, and how fine it is.

    - qsgd: codes of `bits`, which are s = 2^(bits − 1) − 1 levels for each sign, or `levels` = s, with a `scale` per
      `bucket`
    - affine: codes of `bits` in the range of a `bucket`
    - topk, randk: a `fraction` of the coordinates
    - sign: one bit, and a scale per `bucket`
    - eden: a random rotation of each `bucket`, then the nearest of the 2^`bits` levels that suit a Gaussian best
    - lattice: each element's nearest multiple of `spacing`; the last `bits` of its number are sent, and the receiver
      takes the multiple with these bits that is nearest to what it has itself. It suits whole models
    - fixed: multiples of one `spacing` in `bits` each, without scales: uploads are added up as whole numbers
    - fp4: 4-bit floats, in the `format` of OCP or NVIDIA
    - identity: no quantization
    - module:Class: a codec of your own, made with `options`
    """

    entropy: Literal["none", "zstd"] = Field(
        "none", description="Lossless compression of the packed payload.", json_schema_extra=BOTH
    )
    rules: tuple[RuleConfig, ...] = Field(
        (),
        description="Codecs of single tensors, by name, size or rank. A tensor has the codec of the first rule that "
        "takes it, and without one the section's own.",
        json_schema_extra=BOTH
        | takes(
            f"a list of tables: {', '.join(_CONDITIONS)} are conditions, of which a rule gives one or more; codec "
            "and all else are as in the section"
        ),
    )

    @field_validator("rules", mode="before")
    @classmethod
    def _as_a_tuple(cls, value: Any) -> Any:
        """What JSON gave is Python's by now, because of _defaults_of_the_codec: strictness wants a tuple."""
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _suits_lattice(self) -> CodecConfig:
        if self.codec == "lattice" and self.entropy != "none":
            raise ValueError(
                f"entropy = {self.entropy!r}: lattice's codes are the last bits, which don't get shorter"
            )
        if self.rules and any(one.codec == "lattice" for one in (self, *self.rules)):
            raise ValueError(
                "codec 'lattice' decodes a vector near one that the receiver has, and rules take vectors apart: "
                "leave rules out, or take another codec"
            )
        return self

    @model_validator(mode="after")
    def _one_key_suits_all(self) -> CodecConfig:
        """With a shared rotation all uploads have one key: nothing else may draw from it."""
        every = (self, *self.rules)
        drawing = [one for one in every if one.rotation != "shared" and one.draws]
        if drawing and len(drawing) < len(every) and any(one.rotation == "shared" for one in every):
            raise ValueError(
                f"rotation = 'shared' gives all uploads one key, and codec {drawing[0].codec!r} beside it would "
                "round all of them by the same random numbers; take one that draws none: identity, affine, topk, sign"
            )
        return self
