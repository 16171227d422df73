"""Settings of a codec."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

_USED_BY = {
    "bits": ("qsgd", "affine"),
    "levels": ("qsgd",),
    "scale": ("qsgd",),
    "bucket": ("qsgd", "affine", "sign"),
    "fraction": ("topk", "randk"),
}


class CodecConfig(BaseModel):
    """Which quantizer, and how fine.

    qsgd: `bits` a code (s = 2^(bits-1) − 1 levels) or `levels` = s; `scale` per `bucket`. affine: `bits`; a range per
    `bucket`, which is "layer" where nothing is said, as the authors have it. topk, randk: `fraction` of the
    coordinates. sign: one bit, scale per `bucket`. identity: nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    codec: Literal["identity", "qsgd", "affine", "topk", "randk", "sign"] = "qsgd"
    bits: int = Field(4, ge=1, le=32, description="qsgd: 1 to 16, 32 is the identity; affine: 1 to 8")
    levels: int | None = Field(None, ge=1, le=32767, description="qsgd: s itself, in place of bits")
    scale: Literal["linf", "l2"] = "linf"
    bucket: int | Literal["tensor", "layer"] = Field(
        512,
        description="elements per scale; 'tensor' = the whole vector, 'layer' = each parameter tensor "
        "(affine: elements or 'layer', its default)",
    )
    fraction: float | None = Field(None, gt=0, le=1, description="topk, randk: share of coordinates kept")
    entropy: Literal["none", "zstd"] = Field("none", description="code the packed bytes once more")

    @model_validator(mode="before")
    @classmethod
    def _authors_range(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("codec") == "affine":
            return {"bucket": "layer", **given}
        return given

    @model_validator(mode="after")
    def _fits_the_codec(self) -> CodecConfig:
        for field, codecs in _USED_BY.items():
            default = type(self).model_fields[field].default
            if (
                self.codec not in codecs
                and field in self.model_fields_set
                and getattr(self, field) != default
            ):
                raise ValueError(
                    f"{field} has no effect with codec {self.codec!r}; it belongs to {', '.join(codecs)}"
                )
        if self.levels is not None and self.bits != type(self).model_fields["bits"].default:
            raise ValueError(
                f"bits = {self.bits} has no effect beside levels = {self.levels}, from which a code's width follows: "
                "leave one of them out"
            )
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
