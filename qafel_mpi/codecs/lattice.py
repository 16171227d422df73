"""lattice: the nearest point of s·Z^d, of which only the number modulo 2^bits is sent; a reference tells the rest.

Davies et al., ICLR 2021 (arXiv 2002.09268), in its cubic form, as in QuAFL (Zakerinia et al., arXiv 2206.10032): the
error does not depend on how large the vector is, only on how far sender and receiver are apart.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.near import NearCodec
from qafel_mpi.kernels.numba import lattice as kernels


class Lattice(NearCodec):
    """Payload: a 32-bit check per bucket, then each bucket's codes (`bits` each, unsigned, from a whole byte on).

    spacing: s. Within s/2 of x where |x − reference| < s·(2^bits − 1)/2; a bucket in which an element is farther away
    than that fails its check, but for one in 2^(32 − bits), and is decoded as the reference. Rounded to nearest.
    """

    name, id, unbiased = "lattice", 12, False
    decodes_finite = True
    threaded = False

    def __init__(
        self,
        layout: Layout,
        dtype: torch.dtype = torch.float32,
        *,
        spacing: float,
        bits: int = 8,
        bucket: int | str = 512,
    ):
        super().__init__(layout, dtype)
        self.bits, self.spacing = bits, float(spacing)
        self.bucket = layout.elements if bucket == "tensor" else int(bucket)
        whole, rest = divmod(layout.elements, self.bucket)
        self._bytes = whole * (4 + -(-self.bucket * bits // 8)) + (4 + -(-rest * bits // 8) if rest else 0)

    def payload_bytes(self) -> int:
        return self._bytes

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} spacing {self.spacing!r}"

    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        self.require_finite(x)
        kernels.encode(x.cpu().numpy(), *self._settings(key), out)
        return self._bytes

    def decode_near(self, payload: np.ndarray, reference: Tensor, out: Tensor, key: int) -> int:
        return self._near(self.validate(payload), reference, out, 1.0, key, assign=True)

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        self._near(valid, None, acc, weight, key, assign=assign)

    def _near(
        self,
        valid: np.ndarray,
        reference: Tensor | None,
        acc: Tensor,
        weight: float,
        key: int,
        *,
        assign: bool,
    ) -> int:
        here = acc.cpu().numpy()  # acc itself, or a copy of what is on a GPU
        near = here if reference is None else reference.cpu().numpy()
        factor = np.array([weight], dtype=here.dtype)
        wrapped = int(
            kernels.decode(valid, near, reference is None, *self._settings(key), here, factor, assign)
        )
        if acc.is_cuda:
            acc.copy_(torch.from_numpy(here))
        self.wrapped += wrapped
        return wrapped

    def _settings(self, key: int) -> tuple[float, int, int, int, int]:
        return self.spacing, self.bits, self.bucket, key & 0xFFFFFFFF, key >> 32
