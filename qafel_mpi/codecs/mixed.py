"""A codec per tensor: a vector in parts, each with a quantizer of its own, in one payload."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Encoding, Layout, NonFiniteError
from qafel_mpi.kernels.keys import splitmix64
from qafel_mpi.kernels.memory import vector
from qafel_mpi.kernels.numba.pieces import gather, scatter

ALIGN = 8  # bytes: where a part of the payload may begin


class _Part:
    """One quantizer, its tensors, and its bytes of the payload. mask: its key is the message's XOR that."""

    def __init__(self, codec: Codec, layout: Layout, begin: int, mask: int):
        self.codec, self.pieces, self.mask = codec, layout.pieces, mask
        self.begin, self.end = begin, begin + codec.payload_bytes()
        self.elements = layout.elements
        self._in_place = codec.in_place and codec.layout.places is not None
        self._rooms: dict[str, Tensor] = {}

    def bytes_of(self, payload: np.ndarray) -> np.ndarray:
        return payload[self.begin : self.end]

    def in_place(self, x: Tensor) -> bool:
        """Whether the codec takes x as it is. On a GPU every part is gathered."""
        return self._in_place and not x.is_cuda

    def take(self, x: Tensor, room: str = "x") -> Tensor:
        """What the codec takes: x itself, or this part of it in memory of its own, of which `room` names one."""
        if self.in_place(x):
            return x
        out = self._rooms.get(room)
        if out is None or (out.dtype, out.device) != (x.dtype, x.device):
            out = x.new_empty(self.elements) if x.is_cuda else vector(self.elements, x.dtype)
            self._rooms[room] = out
        if x.is_cuda:
            torch.cat([x[a : a + n] for a, _, n in self.pieces.tolist()], out=out)
        else:
            gather(x.numpy(), self.pieces, out.numpy())
        return out

    def put(self, taken: Tensor, x: Tensor) -> None:
        """What the codec has made of what `take` gave it, back to x."""
        if taken is x:
            return
        if x.is_cuda:
            for a, b, n in self.pieces.tolist():
                x[a : a + n].copy_(taken[b : b + n])
        else:
            scatter(taken.numpy(), self.pieces, x.numpy())


class Mixed(Codec):
    """Payload: each part's, one behind the other, each from a multiple of 8 bytes on (FORMAT.md, "Rules").

    parts: the codecs and their tensors, which are those of the layout, each in one part. name, bits: of the section's
    own codec.
    """

    id, unbiased = 9, True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype,
        parts: Iterable[tuple[Codec, Layout]],
        *,
        name: str,
        bits: int,
    ):
        super().__init__(layout, dtype)
        self.name, self.bits = name, bits
        self.parts: list[_Part] = []
        begin = 0
        for codec, own in parts:
            mask = splitmix64(len(self.parts)) if self.parts else 0
            self.parts.append(_Part(codec, own, begin, mask))
            begin = -(-self.parts[-1].end // ALIGN) * ALIGN
        self._bytes = self.parts[-1].end
        self._gaps = [slice(a.end, b.begin) for a, b in zip(self.parts, self.parts[1:], strict=False)]
        codecs = [part.codec for part in self.parts]
        self.unbiased = all(codec.unbiased for codec in codecs)
        self.decodes_finite = all(codec.decodes_finite for codec in codecs)
        self.threaded = any(codec.threaded for codec in codecs)
        self.shared = any(codec.shared for codec in codecs)
        self.own_sums = any(codec.own_sums for codec in codecs)
        self.starts_sums = all(codec.starts_sums for codec in codecs)
        self.clips = any(codec.clips for codec in codecs)
        # Checked last and added first, where several messages are added by one call of its kernel.
        self._largest = max(self.parts, key=lambda part: part.elements)
        self._others = [part for part in self.parts if part is not self._largest]

    def payload_bytes(self) -> int:
        return self._bytes

    def fingerprint(self) -> str:
        return f"{self.name}: " + "; ".join(
            f"{part.codec.fingerprint()} of {part.pieces.tolist()}" for part in self.parts
        )

    def delta(self) -> float | None:
        """The least of the parts': their errors add up, as their squares do."""
        deltas = [part.codec.delta() for part in self.parts]
        return None if None in deltas else min(delta for delta in deltas if delta is not None)

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        try:
            for part in self.parts:
                part.codec.encode(part.take(x), part.bytes_of(out), key ^ part.mask)
        except NonFiniteError:
            self.require_finite(x.float())  # the first one in the vector, not in the part
            raise
        return self._filled(out)

    def begin(self, x: Tensor, out: np.ndarray | Tensor, key: int) -> Encoding:
        if not x.is_cuda:
            return super().begin(x, out, key)
        assert isinstance(out, np.ndarray), f"{self.name} encodes to the host"
        return _Begun(
            self,
            x,
            [part.codec.begin(part.take(x), part.bytes_of(out), key ^ part.mask) for part in self.parts],
            self._filled(out),
        )

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        for part in self.parts:
            moved = part.take(x_hat, "x_hat")
            part.codec.encode_difference(part.take(x), moved, part.bytes_of(out), key ^ part.mask)
            part.put(moved, x_hat)
        return self._filled(out)

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        for part in self.parts:
            part.codec.validate(part.bytes_of(payload))
        return payload

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        for part in self.parts:
            taken = part.take(acc, "x_hat")
            part.codec._decode(part.bytes_of(valid), taken, weight, key ^ part.mask, assign=assign)
            part.put(taken, acc)

    def accumulate_all(
        self, payloads: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        """Part by part: each reads acc once for several messages, where its kernel does."""
        if len(payloads) == 1 or not self.decodes_finite:
            super().accumulate_all(payloads, acc, weights, keys)
            return
        for payload in payloads:
            super().validate(payload)
        # Who takes all messages at once checks them again, and adds in the vector's own order.
        valid = [part.codec.validate_all([part.bytes_of(p) for p in payloads]) for part in self._others]
        self._accumulate_part(self._largest, payloads, acc, weights, keys)
        for part, own in zip(self._others, valid, strict=True):
            if type(part.codec).accumulate_all is not Codec.accumulate_all:
                self._accumulate_part(part, payloads, acc, weights, keys)
                continue
            taken = part.take(acc, "x_hat")
            part.codec._decode_all(own, taken, weights, [key ^ part.mask for key in keys])
            part.put(taken, acc)

    def _accumulate_part(
        self,
        part: _Part,
        payloads: Sequence[np.ndarray],
        acc: Tensor,
        weights: Sequence[float],
        keys: Sequence[int],
    ) -> None:
        taken = part.take(acc, "x_hat")
        own = [part.bytes_of(payload) for payload in payloads]
        part.codec.accumulate_all(own, taken, weights, [key ^ part.mask for key in keys])
        part.put(taken, acc)

    def clipped(self, payload: np.ndarray) -> int:
        return sum(part.codec.clipped(part.bytes_of(payload)) for part in self.parts)

    # --- sums in the basis of a part that has one of its own: the vector, then each such part's --------------------

    @property
    def sum_elements(self) -> int:
        return self.layout.elements + sum(
            part.codec.sum_elements for part in self.parts if part.codec.own_sums
        )

    def _sum(self, valid: np.ndarray, sums: Tensor, weight: float, key: int) -> None:
        vector_sum = sums[: self.layout.elements]
        for part, own in self._sums(sums):
            if part.codec.own_sums:
                part.codec._sum(part.bytes_of(valid), own, weight, key ^ part.mask)
                continue
            taken = part.take(vector_sum, "x_hat")
            part.codec._decode(part.bytes_of(valid), taken, weight, key ^ part.mask, assign=False)
            part.put(taken, vector_sum)

    def resolve(self, sums: Tensor, key: int) -> Tensor:
        total = sums[: self.layout.elements]
        for part, own in self._sums(sums):
            if part.codec.own_sums:
                part.put(part.codec.resolve(own, key ^ part.mask), total)
        return total

    def _sums(self, sums: Tensor) -> Iterator[tuple[_Part, Tensor]]:
        at = self.layout.elements
        for part in self.parts:
            size = part.codec.sum_elements if part.codec.own_sums else 0
            yield part, sums[at : at + size]
            at += size

    def _filled(self, out: np.ndarray) -> int:
        for gap in self._gaps:
            out[gap] = 0
        return self._bytes


@dataclass(frozen=True, slots=True)
class _Begun:
    """The encodings of all parts, on a GPU. It keeps x alive until they are done."""

    codec: Mixed
    x: Tensor
    parts: list[Encoding]
    payload_bytes: int

    def ready(self) -> bool:
        return all(part.ready() for part in self.parts)

    def finish(self) -> int:
        try:
            for part in self.parts:
                part.finish()
        except NonFiniteError:
            self.codec.require_finite(self.x.float())
            raise
        return self.payload_bytes
