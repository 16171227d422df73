"""The machine's limit for a codec: passes over memory with the same reads and writes, and nearly no arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch

from qafel_mpi.kernels.memory import vector
from qafel_mpi.kernels.plan import ELEMENTS_PER_THREAD, spread

BLOCK = (
    512  # elements that are read before their part of the payload is written: a bucket of the default codec
)

# fastmath: sums in any order, so that the compiler reads as fast as it can.
_OPTIONS: Any = {"nogil": True, "fastmath": True, "boundscheck": False}


@numba.njit(**_OPTIONS)
def _read_x_write_payload(x, payload, first, last, share):
    for b in range(first, last):
        block = x[BLOCK * b : BLOCK * (b + 1)]
        total = np.float32(0)
        for i in range(block.size):
            total += block[i]
        payload[share * b : share * (b + 1)] = total


@numba.njit(**_OPTIONS)
def _read_payload_add(payload, acc, first, last, share):
    for b in range(first, last):
        part = payload[share * b : share * (b + 1)]
        total = np.float32(0)
        for i in range(part.size):
            total += part[i]
        block = acc[BLOCK * b : BLOCK * (b + 1)]
        for i in range(block.size):
            block[i] += total


@numba.njit(**_OPTIONS)
def _read_payload_write(payload, acc, first, last, share):
    for b in range(first, last):
        part = payload[share * b : share * (b + 1)]
        total = np.float32(0)
        for i in range(part.size):
            total += part[i]
        acc[BLOCK * b : BLOCK * (b + 1)] = total


@numba.njit(**_OPTIONS)
def _step(x, x_hat, payload, first, last, share):
    for b in range(first, last):
        block, state = x[BLOCK * b : BLOCK * (b + 1)], x_hat[BLOCK * b : BLOCK * (b + 1)]
        total = np.float32(0)
        for i in range(state.size):
            total += block[i] - state[i]
            state[i] += np.float32(0.5) * block[i]
        payload[share * b : share * (b + 1)] = total


@numba.njit(**_OPTIONS)
def _server_step(total, moved, written, payload, first, last, share):
    for b in range(first, last):
        block, sum_ = total[BLOCK * b : BLOCK * (b + 1)], np.float32(0)
        for i in range(block.size):
            sum_ += block[i]
        for vector_ in moved:
            state = vector_[BLOCK * b : BLOCK * (b + 1)]
            for i in range(state.size):
                state[i] = np.float32(0.5) * state[i] + sum_
        written[BLOCK * b : BLOCK * (b + 1)] = sum_
        payload[share * b : share * (b + 1)] = sum_


@numba.njit(**_OPTIONS)
def _read(words):
    found = np.uint64(0)
    for i in range(words.size):
        found ^= words[i]
    return found


def read(payload: np.ndarray) -> None:
    """Read a payload, (n,) uint8 at an address that is a multiple of 8, up to its last whole 8 bytes."""
    _read(payload[: payload.size // 8 * 8].view(np.uint64))


class Passes:
    """Passes over d float32 and a payload; threads as the codecs use them."""

    def __init__(self, d: int, payload_bytes: int, threads: int):
        blocks = -(-d // BLOCK)
        self._share = max(1, -(-payload_bytes // (4 * blocks)))  # float32 words a block
        self._payload = vector(self._share * blocks, torch.float32).zero_().numpy()
        count = max(1, min(threads, d // ELEMENTS_PER_THREAD))
        self._shares = list(pairwise(blocks * i // count for i in range(count + 1)))

    def encode(self, x: np.ndarray) -> None:
        """Read x, write a payload."""
        self._spread(lambda first, last: _read_x_write_payload(x, self._payload, first, last, self._share))

    def decode(self, acc: np.ndarray) -> None:
        """Read a payload, write acc."""
        self._spread(lambda first, last: _read_payload_write(self._payload, acc, first, last, self._share))

    def decode_accumulate(self, acc: np.ndarray) -> None:
        """Read a payload and acc, write acc."""
        self._spread(lambda first, last: _read_payload_add(self._payload, acc, first, last, self._share))

    def hidden_step(self, x: np.ndarray, x_hat: np.ndarray) -> None:
        """Read x and x̂, write x̂ and a payload."""
        self._spread(lambda first, last: _step(x, x_hat, self._payload, first, last, self._share))

    def server_step(self, total: np.ndarray, moved: tuple[np.ndarray, ...], written: np.ndarray) -> None:
        """Read the sum, read and write the vectors in `moved`, write `written` (of no elements: nothing) and a
        payload."""
        self._spread(
            lambda first, last: _server_step(total, moved, written, self._payload, first, last, self._share)
        )

    def _spread(self, work: Callable[[int, int], None]) -> None:
        def call(share: int, first: int, last: int) -> int:
            work(first, last)
            return 0

        spread(call, self._shares)
