"""Codecs: flat vector <-> payload, one file a quantizer; chain.py joins them with transforms and coders."""

from __future__ import annotations

import torch

from qafel_mpi.codecs.affine import Affine
from qafel_mpi.codecs.base import Codec, Layout, NonFiniteError, PayloadError
from qafel_mpi.codecs.chain import Transform, chain
from qafel_mpi.codecs.config import CodecConfig
from qafel_mpi.codecs.eden import Eden
from qafel_mpi.codecs.entropy import Coder, Zstd
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.codecs.lattice import Lattice
from qafel_mpi.codecs.own import OWN_IDS, own_codec
from qafel_mpi.codecs.qsgd import QSGD
from qafel_mpi.codecs.rotation import Rotation
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
}


def build(
    config: CodecConfig, layout: Layout, dtype: torch.dtype = torch.float32, *, threads: int = 1
) -> Codec:
    """The codec that the settings describe, for vectors of this layout and type.

    Raises DataError where a codec of the user's own is no codec, or fails when it is tried.
    """
    stages: list[Transform | Codec | Coder] = []
    if config.transform == "rotation":
        stages.append(rotation := Rotation(layout, dtype))
        layout = rotation.output
    stages.append(_quantizer(config, layout, dtype, threads))
    if config.entropy == "zstd":
        stages.append(Zstd())
    return chain(*stages)


def _quantizer(config: CodecConfig, layout: Layout, dtype: torch.dtype, threads: int) -> Codec:
    if config.own:
        return own_codec(config, layout, dtype)
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
        case "sign":
            return Sign(layout, dtype, bucket=config.bucket, threads=threads)
        case _:
            return Identity(layout, dtype)


def _fraction(config: CodecConfig) -> float:
    assert config.fraction is not None, "CodecConfig requires it for this codec"
    return config.fraction


def _spacing(config: CodecConfig) -> float:
    assert config.spacing is not None, "CodecConfig requires it for this codec"
    return config.spacing
