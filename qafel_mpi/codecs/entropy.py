"""Coders, bytes -> bytes. entropy = "zstd": another codec's payload through Zstandard at level 1 (RFC 8878).

Quantized codes are far from uniform (3.2 of 4 bits on Gaussian data with linf buckets, less on heavy tails);
coding them pays on slow links only. The payload's size varies; the header's FLAG_ENTROPY says so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Encoding, PayloadError
from qafel_mpi.kernels.numba.moving import Motion, Norms
from qafel_mpi.wire import FLAG_ENTROPY


class Coder(ABC):
    """bytes -> bytes, without loss."""

    name: str
    flags: int  # header flags of messages that it has coded

    @abstractmethod
    def bound(self, size: int) -> int:
        """The most bytes that `size` bytes can become."""

    @abstractmethod
    def compress(self, raw: np.ndarray, out: np.ndarray) -> int:
        """raw, uint8, to out. Returns the bytes written."""

    @abstractmethod
    def decompress(self, payload: np.ndarray, out: np.ndarray) -> None:
        """What was coded to out, all of it. Raises PayloadError where that is not what the payload holds."""


class Zstd(Coder):
    """One zstd frame, with its content size."""

    name, flags = "zstd", FLAG_ENTROPY

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def bound(self, size: int) -> int:
        """ZSTD_COMPRESSBOUND."""
        return size + (size >> 8) + ((128 * 1024 - size) >> 11 if size < 128 * 1024 else 0)

    def compress(self, raw: np.ndarray, out: np.ndarray) -> int:
        coded = self._compressor.compress(raw.data)
        out[: len(coded)] = np.frombuffer(coded, dtype=np.uint8)
        return len(coded)

    def decompress(self, payload: np.ndarray, out: np.ndarray) -> None:
        """A frame of another size is refused before it is decoded."""
        try:
            declared = zstandard.frame_content_size(payload[:32].tobytes())
            if declared != out.size:
                raise PayloadError(f"zstd frame of {declared} bytes, {out.size} expected")
            raw = self._decompressor.decompress(payload.data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PayloadError(f"not a zstd frame: {error}") from error
        out[:] = np.frombuffer(raw, dtype=np.uint8)


class Coded(Codec):
    """Payload: what a coder makes of the inner codec's payload."""

    def __init__(self, inner: Codec, coder: Coder):
        super().__init__(inner.layout, inner.dtype)
        self.inner, self.coder = inner, coder
        self.name, self.id, self.bits, self.unbiased = inner.name, inner.id, inner.bits, inner.unbiased
        self.flags = inner.flags | coder.flags
        self.decodes_finite = inner.decodes_finite
        self._raw = np.empty(inner.payload_bytes(), dtype=np.uint8)
        self._several: list[np.ndarray] = []  # for accumulate_all: all are checked before any is added

    def payload_bytes(self) -> int:
        return self.coder.bound(self.inner.payload_bytes())

    def fingerprint(self) -> str:
        return f"{self.coder.name} of {self.inner.fingerprint()}"

    def delta(self) -> float | None:
        return self.inner.delta()

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        return self.compress(self.inner.encode(x, self._raw, key), out)

    def begin(self, x: Tensor, out: np.ndarray | Tensor, key: int) -> Encoding:
        assert isinstance(out, np.ndarray), "it is compressed on the host"
        if not x.is_cuda:
            return super().begin(x, out, key)
        return _Compressing(self, self.inner.begin(x, self._raw, key), out)

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        return self.compress(self.inner.encode_difference(x, x_hat, self._raw, key), out)

    def move_and_encode(
        self,
        motion: Motion,
        x_hat: np.ndarray,
        out: np.ndarray,
        key: int,
        *,
        assigns: bool = False,
        measure: bool = True,
    ) -> tuple[int, Norms]:
        written, norms = self.inner.move_and_encode(
            motion, x_hat, self._raw, key, assigns=assigns, measure=measure
        )
        return self.compress(written, out), norms

    def steps_in_one_pass(self, assigns: bool) -> bool:
        return self.inner.steps_in_one_pass(assigns)

    def start_sum(self, payload: np.ndarray, sums: Tensor, weight: float, key: int) -> None:
        self.inner.start_sum(self._decompress(payload, self._raw), sums, weight, key)

    def accumulate_all(
        self, payloads: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        self.inner.accumulate_all(self._all(payloads), acc, weights, keys)

    @property
    def shared(self) -> bool:  # type: ignore[override]
        return self.inner.shared

    @property
    def own_sums(self) -> bool:  # type: ignore[override]
        return self.inner.own_sums

    @property
    def clips(self) -> bool:  # type: ignore[override]
        return self.inner.clips

    def clipped(self, payload: np.ndarray) -> int:
        return self.inner.clipped(self._decompress(payload, self._raw)) if self.clips else 0

    @property
    def sum_elements(self) -> int:
        return self.inner.sum_elements

    def sum_all(
        self, payloads: Sequence[np.ndarray], sums: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        self.inner.sum_all(self._all(payloads), sums, weights, keys)

    def resolve(self, sums: Tensor, key: int) -> Tensor:
        return self.inner.resolve(sums, key)

    def _all(self, payloads: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The inner payload of each."""
        while len(self._several) < len(payloads):
            self._several.append(np.empty_like(self._raw))
        return [self._decompress(payload, own) for payload, own in zip(payloads, self._several, strict=False)]

    def validate(self, payload: np.ndarray) -> np.ndarray:
        return self.inner.validate(self._decompress(payload, self._raw))

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        self.inner._decode(valid, acc, weight, key, assign=assign)

    def compress(self, raw_bytes: int, out: np.ndarray) -> int:
        """What the inner codec has written to this codec's own buffer, to out. Returns the bytes written."""
        return self.coder.compress(self._raw[:raw_bytes], out)

    def _decompress(self, payload: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The inner payload, in out, of its size."""
        if payload.size > self.payload_bytes():
            raise PayloadError(f"{self.name}: {payload.size} bytes, at most {self.payload_bytes()} expected")
        try:
            self.coder.decompress(payload, out)
        except PayloadError as error:
            raise PayloadError(f"{self.name}: {error}") from error
        return out


@dataclass(frozen=True, slots=True)
class _Compressing:
    """The inner codec's encoding under way; its payload is compressed when that is done."""

    codec: Coded
    inner: Encoding
    out: np.ndarray

    def ready(self) -> bool:
        return self.inner.ready()

    def finish(self) -> int:
        return self.codec.compress(self.inner.finish(), self.out)
