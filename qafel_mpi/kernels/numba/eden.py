"""The CPU kernels of eden, in numba: a block of sixteen buckets at a time, in the cache. reference.py's bytes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qafel_mpi.kernels import reference
from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.kernels.blocks import LANES, Blocks
from qafel_mpi.kernels.numba.eden_decode import decode_range, scales_valid, sum_range
from qafel_mpi.kernels.numba.eden_encode import encode_range
from qafel_mpi.kernels.numba.eden_step import step_range
from qafel_mpi.kernels.numba.hadamard import PER_POSITION, VALUES
from qafel_mpi.kernels.numba.moving import Motion, Norms, Stepping
from qafel_mpi.kernels.plan import spread
from qafel_mpi.kernels.reference import EDEN_LEVELS


class EdenKernels:
    """Encode, decode and the hidden-state step for the blocks of a vector. Owns its scratch.

    x, x_hat, acc: (d,) numpy arrays, float32 or float64. payload: uint8. least_squares: the scale that makes the
    error least, in place of the unbiased one. Methods that encode return the number of a block with an element that
    is not finite (in float32), or -1.
    """

    def __init__(
        self,
        blocks: Blocks,
        *,
        bits: int,
        rotations: int,
        least_squares: bool,
        threads: int = 1,
        pieces: np.ndarray | None = None,
    ):
        """pieces: where the elements lie in x (codecs.base.Layout.pieces); None: x is they."""
        self._pieces = np.empty((0, 3), dtype=np.int64) if pieces is None else pieces
        self.blocks, self.bits, self.rotations, self.least_squares = blocks, bits, rotations, least_squares
        self.codes_at = 4 * blocks.buckets
        self._m, self._whole = blocks.bucket, blocks.whole
        self._last_m, self._lanes = (blocks.last.bucket, blocks.last.lanes) if blocks.last else (8, LANES)
        self._stepping = Stepping(blocks.ends, threads)
        self._shares = self._stepping.shares
        m = blocks.largest_bucket
        self._scratch = [aligned_bytes(VALUES + PER_POSITION * m) for _ in self._shares]
        self._most = [reference.eden_largest_scale(bits, m, rotations) for m in (self._m, self._last_m)]
        self._narrow = m // 8 * EDEN_LEVELS[bits][-1] <= np.iinfo(np.int16).max
        self._rooms: dict[np.dtype, list[tuple[np.ndarray, np.ndarray]]] = {}
        largest = [np.float32(most).view(np.int32) for most in self._most]
        self._valid = (blocks.buckets, LANES * self._whole, *largest)

    def encode(self, x: np.ndarray, payload: np.ndarray, key: int) -> int:
        """Scales and codes of x into payload."""
        return self._encode(x, x, payload, key, step=False)

    def step(self, x: np.ndarray, x_hat: np.ndarray, payload: np.ndarray, key: int) -> int:
        """payload = Q(x − x̂); x̂ += decode(payload). Where it refuses, x̂ has moved in part."""
        return self._encode(x, x_hat, payload, key, step=True)

    def move_and_step(
        self, motion: Motion, x_hat: np.ndarray, payload: np.ndarray, key: int
    ) -> tuple[int, Norms]:
        """x moves, then `step`. For all that x has."""
        rooms = self._room(x_hat.dtype)

        def call(i: int, first: int, last: int, sums: np.ndarray, squares: np.ndarray) -> int:
            return int(
                step_range(
                    *motion, x_hat, self._pieces, self.blocks.elements, self._m, self._whole, self._last_m,
                    self._lanes, first, last, self.bits, self.rotations, self.least_squares, *self._most,
                    self._narrow, key & 0xFFFFFFFF, key >> 32, self._scratch[i], *rooms[i], payload,
                    self.codes_at, sums, squares,
                )
            )  # fmt: skip

        return self._stepping.step(call)

    def decode(self, payload: np.ndarray, acc: np.ndarray, weight: float, key: int, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x)."""
        spread(
            lambda i, first, last: self._decode(i, first, last, payload, acc, weight, key, assign),
            self._shares,
        )

    def sum(self, payload: np.ndarray, sums: np.ndarray, weight: float) -> None:
        """sums += weight · scale · level, (padded d,): what kernels.numba.rotation turns back."""

        def call(i: int, first: int, last: int) -> int:
            return int(
                sum_range(
                    payload, self._m, self._whole, self._last_m, self._lanes, first, last, self.bits, weight,
                    self._scratch[i], *self._room(sums.dtype)[i], self.codes_at, sums,
                )
            )  # fmt: skip

        spread(call, self._shares)

    def valid(self, payload: np.ndarray) -> bool:
        """Whether all scales are such as an encoder writes."""
        return bool(scales_valid(payload, *self._valid))

    def _encode(self, x: np.ndarray, x_hat: np.ndarray, payload: np.ndarray, key: int, *, step: bool) -> int:
        k0, k1 = key & 0xFFFFFFFF, key >> 32

        def encode(i: int, first: int, last: int) -> int:
            return int(
                encode_range(
                    x, x_hat, step, self._pieces, self.blocks.elements, self._m, self._whole, self._last_m,
                    self._lanes, first, last, self.bits, self.rotations, self.least_squares, *self._most, k0,
                    k1, self._scratch[i], payload, self.codes_at,
                )
            )  # fmt: skip

        def step_each(i: int, first: int, last: int) -> int:
            for k in range(first, last):  # x̂ moves block by block, while its codes are in the cache
                if (bad := encode(i, k, k + 1)) >= 0:
                    return bad
                self._decode(i, k, k + 1, payload, x_hat, 1.0, key, False)
            return -1

        return spread(step_each if step else encode, self._shares)

    def _decode(
        self,
        i: int,
        first: int,
        last: int,
        payload: np.ndarray,
        acc: np.ndarray,
        weight: float,
        key: int,
        assign: bool,
    ) -> int:
        factors, values = self._room(acc.dtype)[i]
        return int(
            decode_range(
                payload, self._pieces, self.blocks.elements, self._m, self._whole, self._last_m, self._lanes, first,
                last, self.bits, self.rotations, self._narrow, weight, assign, key & 0xFFFFFFFF,
                key >> 32, self._scratch[i], factors, values, self.codes_at, acc,
            )
        )  # fmt: skip

    def _room(self, kind: np.dtype) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        """Of each thread: factors of a block's buckets, and values of the last block, or of any with pieces."""
        if kind not in self._rooms:
            last = LANES * (max(self._m, self._last_m) if len(self._pieces) else self._last_m)
            self._rooms[kind] = [(_room(LANES, kind), _room(last, kind)) for _ in self._shares]
        return self._rooms[kind]


def _room(elements: int, kind: np.dtype) -> np.ndarray:
    return aligned_bytes(elements * kind.itemsize).view(kind)
