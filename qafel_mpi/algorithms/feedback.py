"""Error feedback upward: what quantization loses of a client's update is added to its next one.

Seide et al. (Interspeech 2014), Karimireddy et al. (ICML 2019, arXiv 1901.09847); with asynchrony AsynFLC-EF (arXiv
2504.19903). v = β e + (y_P − y_0); u = Q_c(v); e = v − u.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.qsgd import QSGD
from qafel_mpi.kernels.keys import Stream, derive


class ErrorFeedback:
    """The residuals e of the clients that live here: nothing for one that has not uploaded yet.

    decay: β. bits: 32 keeps e as it is, d numbers of the run's type for a client; 8 keeps it quantized, unbiased, in
    d · (1 + 1/128) bytes. client_bytes: of a client, either way.
    """

    def __init__(self, layout: Layout, dtype: torch.dtype, *, seed: int, decay: float = 1.0, bits: int = 32):
        self.decay, self.seed = decay, seed
        self._coarse = QSGD(layout, dtype, bits=8) if bits == 8 else None
        self.client_bytes = self._coarse.payload_bytes() if self._coarse else layout.elements * dtype.itemsize
        self._kept: dict[int, np.ndarray] = {}  # by client
        self._keys: dict[int, int] = {}

    def add_to(self, delta: Tensor, client: int) -> None:
        """delta, (d,), += β e, in place: v."""
        self._add(delta, client, self.decay)

    def _add(self, to: Tensor, client: int, factor: float) -> None:
        kept = self._kept.get(client)
        if kept is None:
            return
        if self._coarse is None:
            to.add_(torch.from_numpy(kept).to(to.device), alpha=factor)
        else:
            self._coarse.accumulate(kept, to, factor, self._keys[client])

    def keep(self, v: Tensor, decoded: Tensor, client: int, participation: int) -> None:
        """e = v − decoded. Overwrites decoded."""
        residual = torch.sub(v, decoded, out=decoded)
        if self._coarse is None:
            self._kept[client] = residual.cpu().numpy().copy()
            return
        kept = self._kept.setdefault(client, np.empty(self._coarse.payload_bytes(), dtype=np.uint8))
        self._keys[client] = derive(self.seed, Stream.RESIDUAL, client, participation)
        self._coarse.encode(residual, kept, self._keys[client])

    def residual(self, client: int, like: Tensor) -> Tensor:
        """e, (d,), zeros where nothing is kept. like: of its type, on its device."""
        e = torch.zeros_like(like)
        self._add(e, client, 1.0)
        return e

    def state(self) -> dict[int, tuple[bytes, int]]:
        """What is kept by client, for a checkpoint: bytes, and the key of their random numbers."""
        return {client: (kept.tobytes(), self._keys.get(client, 0)) for client, kept in self._kept.items()}

    def restore(self, state: Mapping[int, tuple[bytes, int]], dtype: torch.dtype) -> None:
        """The inverse of `state`. dtype: of the run. Raises ValueError where a residual is of another size."""
        for client, (data, _) in state.items():
            if len(data) != self.client_bytes:
                raise ValueError(
                    f"client {client}'s residual has {len(data)} bytes, and {self.client_bytes} are needed"
                )
        kind = np.dtype(np.uint8) if self._coarse else np.dtype(str(dtype).removeprefix("torch."))
        self._kept = {client: np.frombuffer(data, kind).copy() for client, (data, _) in state.items()}
        self._keys = {client: key for client, (_, key) in state.items()}
