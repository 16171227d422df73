"""A codec as a chain: transforms (vector -> vector), a quantizer (vector -> packed codes), coders (bytes -> bytes).

`build` in codecs/__init__.py makes the stages, and `chain` checks their order and joins them. The size of every
payload is known before encoding (with a coder: the most that it can be). A quantizer alone is a chain of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout
from qafel_mpi.codecs.entropy import Coded, Coder
from qafel_mpi.kernels.keys import splitmix64
from qafel_mpi.kernels.memory import vector

_FLOAT_MAX = float(np.finfo(np.float32).max)


class Transform(ABC):
    """vector -> vector, and back. layout: of what goes in; output: of what comes out, which may be longer."""

    name: str
    layout: Layout
    output: Layout

    @abstractmethod
    def forward(self, x: Tensor, out: Tensor, key: int) -> None:
        """out = T(x). x: (layout.elements,), out: (output.elements,), of one type on one device."""

    @abstractmethod
    def back(self, y: Tensor, out: Tensor, key: int) -> None:
        """out = T^(−1)(y): of T(x) it is x but for rounding. y: (output.elements,), out: (layout.elements,)."""


KINDS: dict[type, str] = {
    Transform: "vector -> vector",
    Codec: "vector -> codes",
    Coder: "bytes -> bytes",
}


def chain(*stages: Transform | Codec | Coder) -> Codec:
    """The codec that these make, in this order.

    Raises ValueError where they do not fit: any transforms, then one quantizer, then any coders; each takes as many
    elements as the one before it gives.
    """
    kinds = [_kind(stage) for stage in stages]
    order = list(KINDS.values())
    if kinds.count(KINDS[Codec]) != 1 or kinds != sorted(kinds, key=order.index):
        raise ValueError(
            "a chain is transforms (vector -> vector), one quantizer (vector -> codes), then coders "
            f"(bytes -> bytes); this one is {', '.join(kinds) or 'empty'}"
        )
    made = next(stage for stage in stages if isinstance(stage, Codec))
    for transform in reversed([stage for stage in stages if isinstance(stage, Transform)]):
        if transform.output.elements != made.layout.elements:
            raise ValueError(
                f"{transform.name} gives {transform.output.elements} elements, and {made.name} behind it takes "
                f"{made.layout.elements}"
            )
        made = Transformed(transform, made)
    for coder in (stage for stage in stages if isinstance(stage, Coder)):
        made = Coded(made, coder)
    return made


def _kind(stage: object) -> str:
    for kind, words in KINDS.items():
        if isinstance(stage, kind):
            return words
    raise ValueError(f"{stage!r} is no stage of a chain: neither a Transform, nor a Codec, nor a Coder")


class Transformed(Codec):
    """Payload: the inner codec's, of T(x). What is decoded is held to ±the largest float32.

    The transform draws from the message's key, and the inner codec from another: draws that both saw would bias Q.
    """

    def __init__(self, transform: Transform, inner: Codec):
        super().__init__(transform.layout, inner.dtype)
        self.transform, self.inner = transform, inner
        self.name, self.id, self.bits, self.unbiased = inner.name, inner.id, inner.bits, inner.unbiased
        self.flags, self.threaded = inner.flags, inner.threaded
        self._room: Tensor | None = None

    def payload_bytes(self) -> int:
        return self.inner.payload_bytes()

    def fingerprint(self) -> str:
        return f"{self.transform.name} of {self.transform.output.elements}, {self.inner.fingerprint()}"

    def delta(self) -> float | None:
        """The inner codec's: transforms keep ‖x‖."""
        return self.inner.delta()

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.require_finite(x.float())
        turned = self._turned(x)
        self.transform.forward(x, turned, key)
        return self.inner.encode(turned.clamp_(-_FLOAT_MAX, _FLOAT_MAX), out, splitmix64(key))

    def validate(self, payload: np.ndarray) -> np.ndarray:
        return self.inner.validate(payload)

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        turned = self._turned(acc)
        self.inner._decode(valid, turned, 1.0, splitmix64(key), assign=True)
        target = acc if assign else self.scratch(acc)
        self.transform.back(turned, target, key)
        target.clamp_(-_FLOAT_MAX, _FLOAT_MAX)
        if not assign:
            acc.add_(target, alpha=weight)

    def _turned(self, like: Tensor) -> Tensor:
        """Room for T(x)."""
        room = self._room
        if room is None or (room.dtype, room.device) != (like.dtype, like.device):
            room = self._room = vector(self.transform.output.elements, like.dtype, like.device)
        return room

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        difference = x - x_hat
        written = self.encode(difference, out, key)
        self._decode(out[:written], x_hat, 1.0, key, assign=False)
        return written
