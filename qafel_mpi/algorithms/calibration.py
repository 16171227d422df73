"""What the server remembers of each client's last update, to make up for the clients that are not in the buffer.

CA²FL (Wang et al., ICLR 2024, Algorithm 2): with h_i client i's last update and h the mean over all n clients, zeros
for those that have never uploaded, a buffer of K uploads makes v = h + (1/K) Σ (u_i − h_i).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from qafel_mpi.kernels.memory import tensor_of, vector_like
from qafel_mpi.kernels.state import State, restore_array


class Calibration:
    """h_i as the payloads that came, n · payload_bytes in all, and h, (d,)."""

    def __init__(self, x: Tensor, clients: int):
        self.mean = vector_like(x).zero_()
        self.clients = clients
        self._last: dict[int, tuple[np.ndarray, int]] = {}

    def swap(self, client: int, payload: np.ndarray, key: int) -> tuple[np.ndarray, int] | None:
        """h_i ← this payload, uint8, of which a copy is kept. Returns the one before, and its key."""
        before = self._last.get(client)
        self._last[client] = payload.copy(), key
        return before

    def state(self) -> State:
        """h, and by client in the order of `clients` the payloads end to end, with their sizes and keys."""
        payloads = [payload for payload, _ in self._last.values()]
        return {
            "mean": self.mean.cpu().numpy(),
            "clients": np.array(list(self._last), np.int64),
            "keys": np.array([key for _, key in self._last.values()], np.uint64),
            "sizes": np.array([payload.size for payload in payloads], np.int64),
            "payloads": np.concatenate(payloads) if payloads else np.zeros(0, np.uint8),
        }

    def restore(self, state: State) -> None:
        """Raises ValueError where it does not fit."""
        mean = np.empty(self.mean.numel(), self.mean.cpu().numpy().dtype)
        restore_array(mean, state["mean"])
        self.mean.copy_(tensor_of(mean))
        payloads = np.split(state["payloads"], np.cumsum(state["sizes"])[:-1]) if len(state["sizes"]) else []
        rows = zip(state["clients"].tolist(), payloads, state["keys"].tolist(), strict=True)
        self._last = {client: (payload.copy(), key) for client, payload, key in rows}

    def moved(self, total: Tensor) -> None:
        """h += (1/n) Σ (u_i − h_i). total: (d,), that sum."""
        self.mean.add_(total, alpha=1.0 / self.clients)
