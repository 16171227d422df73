"""Codecs: flat vector <-> payload, one file a quantizer; chain.py joins them with transforms and coders."""

from __future__ import annotations

import torch

from qafel_mpi.codecs.affine import Affine
from qafel_mpi.codecs.base import Codec, Layout, NonFiniteError, PayloadError
from qafel_mpi.codecs.chain import Transform, chain
from qafel_mpi.codecs.config import CodecConfig, QuantizerConfig
from qafel_mpi.codecs.eden import Eden
from qafel_mpi.codecs.entropy import Zstd
from qafel_mpi.codecs.fixed import Fixed
from qafel_mpi.codecs.fp4 import Fp4
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.codecs.lattice import Lattice
from qafel_mpi.codecs.mixed import Mixed
from qafel_mpi.codecs.own import OWN_IDS, own_codec
from qafel_mpi.codecs.qsgd import QSGD
from qafel_mpi.codecs.rotation import Rotation
from qafel_mpi.codecs.rules import parts_of
from qafel_mpi.codecs.sign import Sign
from qafel_mpi.codecs.sparse import RandK, TopK

__all__ = ["CODECS", "OWN_IDS", "Codec", "CodecConfig", "Layout", "NonFiniteError", "PayloadError", "build"]

CODECS: dict[str, type[Codec]] = {
    "identity": Identity,
    "qsgd": QSGD,
    "affine": Affine,
    "topk": TopK,
    "randk": RandK,
    "sign": Sign,
    "eden": Eden,
    "lattice": Lattice,
    "fp4": Fp4,
    "fixed": Fixed,
}


def build(
    config: CodecConfig, layout: Layout, dtype: torch.dtype = torch.float32, *, threads: int = 1
) -> Codec:
    """The codec that the settings describe, for vectors of this layout and type.

    Raises DataError where a codec of the user's own is no codec, or fails when it is tried, and where a rule does not
    fit the tensors.
    """
    if config.rules:
        parts = [
            (build_quantizer(own, part, dtype, threads=threads), part)
            for own, part in parts_of(config, layout)
        ]
        made: Codec = Mixed(layout, dtype, parts, name=f"{config.codec} with rules", bits=config.bits)
    else:
        made = build_quantizer(config, layout, dtype, threads=threads)
    return chain(made, Zstd()) if config.entropy == "zstd" else made


def build_quantizer(
    config: QuantizerConfig, layout: Layout, dtype: torch.dtype = torch.float32, *, threads: int = 1
) -> Codec:
    """The codec of all tensors of this layout: the transform and the quantizer. Raises DataError."""
    stages: list[Transform | Codec] = []
    if config.transform == "rotation":
        stages.append(rotation := Rotation(layout, dtype))
        layout = rotation.output
    stages.append(_quantizer(config, layout, dtype, threads))
    return chain(*stages)


def _quantizer(config: QuantizerConfig, layout: Layout, dtype: torch.dtype, threads: int) -> Codec:
    if config.own:
        # One that stands alone, whatever vector the layout is a part of.
        return own_codec(config, Layout(layout.names, layout.shapes), dtype)
    match config.codec:
        case "qsgd" if config.levels is not None or config.bits != 32:
            return QSGD(
                layout,
                dtype,
                bits=config.bits,
                levels=config.levels,
                scale=config.scale,
                bucket=config.bucket,
                threads=threads,
            )
        case "affine":
            return Affine(layout, dtype, bits=config.bits, bucket=config.bucket, threads=threads)
        case "topk":
            return TopK(layout, dtype, fraction=_fraction(config))
        case "randk":
            return RandK(layout, dtype, fraction=_fraction(config))
        case "eden":
            return Eden(
                layout,
                dtype,
                bits=config.bits,
                bucket=int(config.bucket),
                scale=config.scale,
                rotations=config.rotations,
                shared=config.rotation == "shared",
                threads=threads,
            )
        case "lattice":
            return Lattice(layout, dtype, spacing=_spacing(config), bits=config.bits, bucket=config.bucket)
        case "fixed":
            return Fixed(layout, dtype, spacing=_spacing(config), bits=config.bits, threads=threads)
        case "fp4":
            return Fp4(layout, dtype, format=config.format, rounding=config.rounding, threads=threads)
        case "sign":
            return Sign(layout, dtype, bucket=config.bucket, threads=threads)
        case _:
            return Identity(layout, dtype, threads=threads)


def _fraction(config: QuantizerConfig) -> float:
    assert config.fraction is not None, "CodecConfig requires it for this codec"
    return config.fraction


def _spacing(config: QuantizerConfig) -> float:
    assert config.spacing is not None, "CodecConfig requires it for this codec"
    return config.spacing
