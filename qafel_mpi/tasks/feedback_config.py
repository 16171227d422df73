"""Settings of error feedback: what a client keeps of what its uploads' quantization lost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from qafel_mpi.setting import BOTH, OWN, Settings, only_with

_QUANTIZED = ("qsgd", "affine", "topk", "randk", "sign", "eden", "fp4", "fixed", OWN)


class FeedbackSettings(Settings):
    """A part of the client's settings."""

    error_feedback: bool = Field(
        False,
        description="Whether a client keeps what quantization lost of its upload, and adds it to its next update: "
        "v = β e + (y_P − y_0), u = Q_c(v), e = v − u.",
        json_schema_extra=BOTH | only_with({"uplink.codec": _QUANTIZED, "server.update": "delta"}),
    )
    error_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Decay β of what a client has kept, each time that it is added.",
        json_schema_extra=BOTH | only_with(error_feedback=True),
    )
    error_bits: Literal[8, 32] = Field(
        32,
        description="Bits of an element that a client keeps: 32, or 8 with a scale per 512 elements, rounded at "
        "random, in a quarter of the memory.",
        json_schema_extra=BOTH | only_with(error_feedback=True),
    )
