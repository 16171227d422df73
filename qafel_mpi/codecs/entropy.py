"""entropy = "zstd": another codec's payload through Zstandard at level 1 (RFC 8878).

Quantized codes are far from uniform (3.2 of 4 bits on Gaussian data with linf buckets, less on heavy tails);
coding them pays on slow links only. The payload's size varies; the header's FLAG_ENTROPY says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import zstandard
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Encoding, PayloadError
from qafel_mpi.wire import FLAG_ENTROPY


class Entropy(Codec):
    """Payload: one zstd frame, with its content size, that holds the inner codec's payload."""

    flags = FLAG_ENTROPY

    def __init__(self, inner: Codec):
        super().__init__(inner.layout, inner.dtype)
        self.inner = inner
        self.name, self.id, self.bits, self.unbiased = inner.name, inner.id, inner.bits, inner.unbiased
        self._raw = np.empty(inner.payload_bytes(), dtype=np.uint8)
        self._several: list[np.ndarray] = []  # for accumulate_all: all are checked before any is added
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._decompressor = zstandard.ZstdDecompressor()

    def payload_bytes(self) -> int:
        """The most a frame can have: ZSTD_COMPRESSBOUND of the inner payload."""
        n = self.inner.payload_bytes()
        return n + (n >> 8) + ((128 * 1024 - n) >> 11 if n < 128 * 1024 else 0)

    def fingerprint(self) -> str:
        return f"zstd of {self.inner.fingerprint()}"

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

    def accumulate_all(
        self, payloads: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        while len(self._several) < len(payloads):
            self._several.append(np.empty_like(self._raw))
        raw = [self._decompress(payload, own) for payload, own in zip(payloads, self._several, strict=False)]
        self.inner.accumulate_all(raw, acc, weights, keys)

    def validate(self, payload: np.ndarray) -> np.ndarray:
        return self.inner.validate(self._decompress(payload, self._raw))

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        self.inner._decode(valid, acc, weight, key, assign=assign)

    def compress(self, raw_bytes: int, out: np.ndarray) -> int:
        """What the inner codec has written to this codec's own buffer, to out. Returns the bytes written."""
        coded = self._compressor.compress(self._raw[:raw_bytes].data)
        out[: len(coded)] = np.frombuffer(coded, dtype=np.uint8)
        return len(coded)

    def _decompress(self, payload: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The inner payload, in out, of its size. A frame of another size is refused before it is decoded."""
        expected = out.size
        if payload.size > self.payload_bytes():
            raise PayloadError(f"{self.name}: {payload.size} bytes, at most {self.payload_bytes()} expected")
        try:
            declared = zstandard.frame_content_size(payload[:32].tobytes())
            if declared != expected:
                raise PayloadError(f"{self.name}: zstd frame of {declared} bytes, {expected} expected")
            raw = self._decompressor.decompress(payload.data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PayloadError(f"{self.name}: not a zstd frame: {error}") from error
        out[:] = np.frombuffer(raw, dtype=np.uint8)
        return out


@dataclass(frozen=True, slots=True)
class _Compressing:
    """The inner codec's encoding under way; its payload is compressed when that is done."""

    codec: Entropy
    inner: Encoding
    out: np.ndarray

    def ready(self) -> bool:
        return self.inner.ready()

    def finish(self) -> int:
        return self.codec.compress(self.inner.finish(), self.out)
