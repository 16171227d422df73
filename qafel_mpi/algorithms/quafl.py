"""QuAFL at the clients: each has a model of its own, which it trains until the server asks for it.

Zakerinia et al., arXiv 2206.10032, with the averaging of its authors' code. S clients are asked for a server step. A
client that is asked sends its y as it is, after as many of its P steps as it has made, and mixes what the question
brought: y ← dec(x; y)/(S + 1) + S/(S + 1) · y. The server, with the answers: x ← x/(S + 1) + S/(S + 1) · mean of all
dec(y_i; x). No state is shared: each end decodes near what it has itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from qafel_mpi.algorithms.client import upload_key
from qafel_mpi.codecs.base import Codec
from qafel_mpi.codecs.near import decode_near
from qafel_mpi.kernels.memory import copy_of, tensor_of, vector_like
from qafel_mpi.kernels.state import restore_array


def local_rate(rate: float, asked: int) -> float:
    """η_ℓ/(1 − 1/(S + 1)): what a step moves y by loses a share of 1/(S + 1) when the client mixes."""
    return rate / (1 - 1 / (asked + 1))


class Question(NamedTuple):
    """Q_s(x^version), uint8, as it came, and the key of its random numbers."""

    payload: np.ndarray
    key: int
    version: int


class LocalModels:
    """The models y of the clients that live here: d numbers of the run's type for each that has trained or was asked.

    x0: (d,), where they begin. asked: S.
    """

    def __init__(self, x0: Tensor, uplink: Codec, downlink: Codec, *, seed: int, asked: int):
        self.uplink, self.downlink = uplink, downlink
        self.seed, self.asked = seed, asked
        self._x0, self._near = copy_of(x0), vector_like(x0)
        self._models: dict[int, Tensor] = {}
        self._versions: dict[int, int] = {}

    def model(self, client: int) -> Tensor:
        """y, (d,): its trainer adds to it."""
        if client not in self._models:
            self._models[client] = copy_of(self._x0)
        return self._models[client]

    def version(self, client: int) -> int:
        """Of the x that the client has mixed last; 0 where it has x^0."""
        return self._versions.get(client, 0)

    def state(self) -> dict[int, tuple[bytes, int]]:
        """For a checkpoint: by client the bytes of its model, and `version`."""
        return {
            client: (y.cpu().numpy().tobytes(), self.version(client)) for client, y in self._models.items()
        }

    def restore(self, state: Mapping[int, tuple[bytes, int]]) -> None:
        """The inverse of `state`. Raises ValueError where a model is of another size."""
        kind = self._x0.cpu().numpy().dtype
        self._models = {client: copy_of(self._x0) for client in state}
        for client, (data, _) in state.items():
            y = np.empty(self._x0.numel(), kind)
            restore_array(y, np.frombuffer(data, kind))
            self._models[client].copy_(tensor_of(y))
        self._versions = {client: version for client, (_, version) in state.items()}

    def answer(
        self, client: int, participation: int, question: Question, out: np.ndarray
    ) -> tuple[int, int, int]:
        """Write Q_c(y) to out, uint8, and mix. Returns (payload bytes, key, parts of x that were too far from y).

        Raises NonFiniteError where the training diverged, and PayloadError.
        """
        y, share = self.model(client), 1.0 / (self.asked + 1)
        key = upload_key(self.uplink, self.seed, client, participation)
        size = self.uplink.encode(y, out, key)
        wrapped = decode_near(self.downlink, question.payload, y, self._near, question.key)
        y.mul_(1.0 - share).add_(self._near, alpha=share)
        self._versions[client] = question.version
        return size, key, wrapped
