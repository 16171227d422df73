"""fixed: stochastic rounding to multiples of one spacing, the same for all clients, and sums of whole numbers.

Fixed-point updates as in SwitchML (Sapio et al., NSDI 2021), packed in few bits: messages have no scales, so that a
server adds up codes as they are, without an error and in any order, and multiplies once a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Codec, Layout, PayloadError
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.kernels.numba.fixed import CODES_AT, FixedKernels

SUM_LIMIT = int(np.iinfo(np.int16).max)


class Fixed(Codec):
    """Payload: how many elements were clipped (uint32), then the packed codes (FORMAT.md).

    spacing: of the levels; an element beyond ±spacing·(2^(bits−1) − 1) is clipped to that, and counted. bits: 2 to
    8. Unbiased where nothing is clipped. Sums are int16: Σ |weight| · 2^(bits−1) may be 32,767 (SUM_LIMIT), whatever
    the codes; weights are whole numbers. On a GPU's tensors it works on the host.
    """

    name, id, unbiased = "fixed", 13, False
    decodes_finite = True
    own_sums = True
    clips = True

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        spacing: float,
        bits: int = 4,
        threads: int = 1,
    ):
        super().__init__(layout, dtype)
        self.bits, self.spacing = bits, float(spacing)
        self._bytes = CODES_AT + -(-layout.elements * bits // 8)
        self._cpu = FixedKernels(layout.elements, spacing=self.spacing, bits=bits, threads=threads)
        self._total: Tensor | None = None
        self._integers_of: tuple[Tensor, np.ndarray] | None = None  # the last sums, and what they hold

    def payload_bytes(self) -> int:
        return self._bytes

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} spacing {self.spacing!r}"

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        if self._cpu.encode(x.cpu().numpy(), out, key) >= 0:
            self.refuse(x)
        return self._bytes

    def validate(self, payload: np.ndarray) -> np.ndarray:
        super().validate(payload)
        if (clipped := self.clipped(payload)) > self.layout.elements:
            raise PayloadError(
                f"{self.name}: {clipped} elements clipped, and there are {self.layout.elements}"
            )
        return payload

    def clipped(self, payload: np.ndarray) -> int:
        return int.from_bytes(payload[:CODES_AT].tobytes(), "little")

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        here = acc.cpu().numpy()  # acc itself, or a copy of what is on a GPU
        self._cpu.decode(valid, here, weight, assign=assign)
        if acc.is_cuda:
            acc.copy_(torch.from_numpy(here))

    # --- sums: int16, in the memory of half as many float32 -----------------------------------------------------

    @property
    def sum_elements(self) -> int:
        return -(-self.layout.elements // 2)

    def sum_all(
        self, payloads: Sequence[np.ndarray], sums: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        valid = [self.validate(payload) for payload in payloads]
        self._cpu.add(valid, [_whole(weight) for weight in weights], self._integers(sums))

    def _sum(self, valid: np.ndarray, sums: Tensor, weight: float, key: int) -> None:
        self._cpu.add([valid], [_whole(weight)], self._integers(sums))

    def resolve(self, sums: Tensor, key: int) -> Tensor:
        if self._total is None or self._total.dtype != sums.dtype:
            self._total = vector_like(sums.new_empty(self.layout.elements))
        self._cpu.scale(self._integers(sums), self._total.numpy())
        return self._total

    def _integers(self, sums: Tensor) -> np.ndarray:
        if self._integers_of is None or self._integers_of[0] is not sums:
            self._integers_of = sums, sums.view(torch.int16)[: self.layout.elements].numpy()
        return self._integers_of[1]


def _whole(weight: float) -> int:
    if weight != int(weight):
        raise ValueError(f"a weight of {weight}: sums of whole numbers take whole weights only")
    return int(weight)
