"""What else does a codec's job: plain numpy and torch, and the libraries that the field uses, where installed.

Every peer works on the same float32 vector with a scale per 512 elements; one that needs whole groups leaves out
the last d mod 512. A peer may round to nearest where it knows nothing else: that is less work, to its advantage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

GROUP = 512
NAMES = ("numpy", "torch", "bitsandbytes", "torchao")


@dataclass(frozen=True)
class Peer:
    """One library at one width: what it does, and its two operations on (d,) float32."""

    name: str
    does: str
    encode: Callable[[], Any]
    decode_accumulate: Callable[[], Any]


def find(name: str, codec: str, bits: int, x: Tensor, acc: Tensor) -> Peer | None:
    """The peer's way to do the codec's job at this width, on x and acc; None where it has none.

    Raises ImportError where the library is not installed, and what it raises where it can't do it here.
    """
    makers = {"numpy": _numpy, "torch": _torch, "bitsandbytes": _bitsandbytes, "torchao": _torchao}
    return makers[name](codec, bits, x, acc)


# --- stochastic rounding and packing, by the formula ------------------------------------------------------


def _numpy(codec: str, bits: int, x: Tensor, acc: Tensor) -> Peer | None:
    if codec != "qsgd" or bits not in (2, 4, 8):
        return None
    values, total = _groups(x).numpy(), _groups(acc).numpy()
    s, per_byte = 2 ** (bits - 1) - 1, 8 // bits
    random = np.random.default_rng(0)
    places = np.arange(per_byte, dtype=np.uint8) * bits

    def encode() -> tuple[np.ndarray, np.ndarray]:
        scale = np.abs(values).max(axis=1, keepdims=True)
        levels = np.floor(values / scale * s + random.random(values.shape, dtype=np.float32)).astype(np.int8)
        codes = (levels.view(np.uint8) & (2**bits - 1)).reshape(-1, per_byte)
        return scale, np.bitwise_or.reduce(codes << places, axis=1)

    scale, packed = encode()

    def decode_accumulate() -> None:
        codes = (packed[:, None] >> places) & (2**bits - 1)
        levels = ((codes ^ (1 << (bits - 1))).astype(np.int16) - (1 << (bits - 1))).reshape(total.shape)
        total[:] += levels * (scale / s)

    return Peer("numpy", "stochastic, packed", encode, decode_accumulate)


def _torch(codec: str, bits: int, x: Tensor, acc: Tensor) -> Peer | None:
    if codec == "qsgd" and bits in (2, 4, 8):
        return _torch_eager(bits, _groups(x), _groups(acc))
    if codec == "affine" and bits in (2, 4, 8):
        return _fbgemm(bits, _groups(x), _groups(acc))
    return None


def _torch_eager(bits: int, values: Tensor, total: Tensor) -> Peer:
    s, per_byte = 2 ** (bits - 1) - 1, 8 // bits
    places = torch.arange(per_byte, dtype=torch.uint8) * bits

    def encode() -> tuple[Tensor, Tensor]:
        scale = values.abs().amax(dim=1, keepdim=True)
        levels = torch.floor(values / scale * s + torch.rand_like(values)).to(torch.int8)
        codes = (levels.view(torch.uint8) & (2**bits - 1)).view(-1, per_byte)
        return scale, (codes << places).sum(dim=1, dtype=torch.uint8)

    scale, packed = encode()

    def decode_accumulate() -> None:
        codes = (packed[:, None] >> places) & (2**bits - 1)
        levels = (codes ^ (1 << (bits - 1))).to(torch.int16) - (1 << (bits - 1))
        total.add_(levels.view(total.shape) * (scale / s))

    return Peer("torch", "eager, stochastic, packed", encode, decode_accumulate)


def _fbgemm(bits: int, values: Tensor, total: Tensor) -> Peer:
    width = {2: "2bit", 4: "4bit", 8: "byte"}[bits]
    quantized = torch.ops.quantized
    prepack = getattr(quantized, f"embedding_bag_{width}_prepack")
    unpack = getattr(quantized, f"embedding_bag_{width}_unpack")
    packed = prepack(values)
    return Peer(
        "torch", "FBGEMM, to nearest, packed", lambda: prepack(values), lambda: total.add_(unpack(packed))
    )


# --- libraries ----------------------------------------------------------------------------------------------


def _bitsandbytes(codec: str, bits: int, x: Tensor, acc: Tensor) -> Peer | None:
    functional = import_module("bitsandbytes.functional")
    if codec not in ("qsgd", "affine") or bits not in (4, 8):
        return None
    values, total = _groups(x).view(-1), _groups(acc).view(-1)
    if bits == 8:
        quantize, dequantize = functional.quantize_blockwise, functional.dequantize_blockwise
    else:
        quantize, dequantize = functional.quantize_4bit, functional.dequantize_4bit
    packed, state = quantize(values, blocksize=GROUP)
    does = "dynamic 8 bits" if bits == 8 else "FP4"
    return Peer(
        "bitsandbytes",
        f"{does}, to nearest, packed",
        lambda: quantize(values, blocksize=GROUP),
        lambda: total.add_(dequantize(packed, state).view(-1)),
    )


def _torchao(codec: str, bits: int, x: Tensor, acc: Tensor) -> Peer | None:
    primitives = import_module("torchao.quantization.quant_primitives")
    if codec not in ("qsgd", "affine") or bits not in (4, 8):
        return None
    values, total = _groups(x), _groups(acc)
    low, high = (0, 15) if bits == 4 else (0, 255)
    about = (primitives.MappingType.ASYMMETRIC, (1, GROUP), torch.uint8, low, high)
    output = {"quant_min": low, "quant_max": high}

    def encode() -> tuple[Tensor, Tensor, Tensor]:
        scale, zero = primitives.choose_qparams_affine(values, *about)
        codes = primitives.quantize_affine(values, (1, GROUP), scale, zero, torch.uint8, **output)
        return (codes[:, ::2] | codes[:, 1::2] << 4 if bits == 4 else codes), scale, zero

    packed, scale, zero = encode()

    def decode_accumulate() -> None:
        codes = packed
        if bits == 4:
            codes = torch.stack((packed & 15, packed >> 4), dim=2).view(total.shape)
        total.add_(primitives.dequantize_affine(codes, (1, GROUP), scale, zero, torch.uint8, **output))

    return Peer("torchao", "min-max, to nearest, packed", encode, decode_accumulate)


def _groups(x: Tensor) -> Tensor:
    """(d // 512, 512): a view of the vector's whole groups; a vector shorter than one is one group."""
    size = min(GROUP, x.numel())
    return x[: x.numel() // size * size].view(-1, size)
