"""What each codec makes of real updates: its error, beside the bytes that a message with it has on the wire.

The updates come in batches of a server step's. Errors are no timings: they are functions of the updates and of seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.wire import HEADER_BYTES

SEED = 0
BUDGETS = (1, 2, 3, 4, 8)  # bits per element, of the codecs that keep as many coordinates as have room
ROOM = 1.001  # the range of lattice and fixed over the largest element

_CHAINS: dict[str, dict[str, Any]] = {
    "float32": {"codec": "identity"},
    **{f"qsgd, {b} bits": {"codec": "qsgd", "bits": b} for b in (2, 3, 4, 6, 8)},
    **{f"qsgd, {b} bits, rotated": {"codec": "qsgd", "bits": b, "transform": "rotation"} for b in (2, 4)},
    **{
        f"qsgd, 4 bits, {words}": {"codec": "qsgd", "bits": 4, "scale": scale, "bucket": bucket}
        for words, scale, bucket in (
            ("128", "linf", 128),
            ("4096", "linf", 4096),
            ("linf of the tensor", "linf", "tensor"),
            ("l2, 128", "l2", 128),
            ("l2, 512", "l2", 512),
            ("l2, 4096", "l2", 4096),
            ("l2 of the tensor", "l2", "tensor"),
        )
    },
    **{f"qsgd, {b} bits, zstd": {"codec": "qsgd", "bits": b, "entropy": "zstd"} for b in (2, 3, 4, 6, 8)},
    "eden, 4 bits, zstd": {"codec": "eden", "bits": 4, "entropy": "zstd"},
    **{f"affine, {b} bits, a layer": {"codec": "affine", "bits": b} for b in (2, 4, 8)},
    **{f"affine, {b} bits, 128": {"codec": "affine", "bits": b, "bucket": 128} for b in (2, 4)},
    "sign": {"codec": "sign"},
    "sign, rotated": {"codec": "sign", "transform": "rotation"},
    **{f"eden, {b} bits": {"codec": "eden", "bits": b} for b in (1, 2, 3, 4)},
    **{
        f"eden, {b} bits, least squares": {"codec": "eden", "bits": b, "scale": "least-squares"}
        for b in (1, 2, 3, 4)
    },
    **{
        f"eden, {b} bits, {what}": {"codec": "eden", "bits": b} | options
        for b in (1, 2)
        for what, options in (("two rotations", {"rotations": 2}), ("4096", {"bucket": 4096}))
    },
    **{
        f"fp4, {form}, {rounding}": {"codec": "fp4", "format": form, "rounding": rounding}
        for form in ("mxfp4", "nvfp4")
        for rounding in ("stochastic", "nearest")
    },
}
_PER_COORDINATE = {"topk": 64, "randk": 32}  # bits of one that is kept


@dataclass(frozen=True)
class Error:
    """A codec on the updates of one run.

    wire_bytes: of a message, header and all; the mean where they differ. bits_per_element: the same, over d.
    error: ‖Q(u) − u‖²/‖u‖², the mean over all updates u; least, most: of a single one. error_of_sums: the same of
    the sum of a batch, which a server step takes: independent errors average out there, and a bias does not.
    """

    codec: str
    wire_bytes: float
    bits_per_element: float
    error: float
    least: float
    most: float
    error_of_sums: float


def menu(layout: Layout, largest: float) -> dict[str, CodecConfig]:
    """Every codec of the package with several settings, by a name in words.

    topk and randk keep as many coordinates as fit into so many bits per element. largest: of all updates' elements;
    the spacing of lattice and of fixed is the least for which all fit, which no run knows before.
    """
    found: dict[str, dict[str, Any]] = dict(_CHAINS)
    for name, each in _PER_COORDINATE.items():
        for bits in BUDGETS:
            found[f"{name}, {bits} bits' worth"] = {"codec": name, "fraction": bits / each}
    for bits in (4, 8):
        spacing = max(1e-12, 2 * ROOM * largest / (2**bits - 1))
        found[f"lattice, {bits} bits"] = {"codec": "lattice", "bits": bits, "spacing": spacing}
        spacing = max(1e-12, ROOM * largest / (2 ** (bits - 1) - 1))
        found[f"fixed, {bits} bits"] = {"codec": "fixed", "bits": bits, "spacing": spacing}
    at_least_one = {
        name: options
        for name, options in found.items()
        if int(options.get("fraction", 1.0) * layout.elements) >= 1
    }
    return {name: CodecConfig.model_validate(options) for name, options in at_least_one.items()}


def errors(
    layout: Layout, batches: Sequence[Sequence[Tensor]], codecs: Mapping[str, CodecConfig] | None = None
) -> list[Error]:
    """Each codec's errors on these updates. batches: of (d,) float32 each, none of them zero.

    codecs: by name; all of `menu` by default.
    """
    largest = max(float(update.abs().max()) for batch in batches for update in batch)
    chosen = menu(layout, largest) if codecs is None else codecs
    return [_error(name, config, layout, batches) for name, config in chosen.items()]


def _error(name: str, config: CodecConfig, layout: Layout, batches: Sequence[Sequence[Tensor]]) -> Error:
    codec = build(config, layout)
    payload = np.empty(codec.payload_bytes(), dtype=np.uint8)
    decoded = torch.empty(layout.elements)
    sizes, single, sums = [], [], []
    for number, batch in enumerate(batches):
        exact = torch.zeros(layout.elements, dtype=torch.float64)
        got = torch.zeros_like(exact)
        for client, update in enumerate(batch):
            key = derive(SEED, Stream.EVALUATION, number, client)
            size = codec.encode(update, payload, key)
            codec.decode(payload[:size], decoded, key)
            sizes.append(size + HEADER_BYTES)
            single.append(relative(decoded, update))
            exact += update
            got += decoded
        sums.append(relative(got, exact))
    bytes_ = fmean(sizes)
    return Error(
        name, bytes_, 8 * bytes_ / layout.elements, fmean(single), min(single), max(single), fmean(sums)
    )


def relative(found: Tensor, wanted: Tensor) -> float:
    """‖found − wanted‖²/‖wanted‖², in float64."""
    return float(
        ((found.double() - wanted.double()).norm() / torch.linalg.vector_norm(wanted, dtype=torch.float64))
        ** 2
    )
