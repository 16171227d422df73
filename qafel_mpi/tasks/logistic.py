"""Binary logistic regression with an L2 term, the paper's convex experiment; full-batch steps in closed algebra.

f(x) = (1/n) Σ_i log(1 + exp(−b_i·x)) + (λ/2)‖x‖², with b_i = ±a_i the example times its label.
A client's objective is the same over its own examples.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numba import njit
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.formats import DataError
from qafel_mpi.tasks.partitions import Partition

GRAM_LIMIT_BYTES = 256 * 2**20


@njit(cache=True, nogil=True)
def _dot(a, b):
    total = 0.0
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _matvec(m, v, out):
    """out = m v; the sum may be taken in any order, so that it runs in vector registers."""
    for i in range(m.shape[0]):
        total = 0.0
        row = m[i]
        for j in range(v.size):
            total += row[j] * v[j]
        out[i] = total


@njit(cache=True, nogil=True)
def _full_batch(b, gram, gram_at, offsets, clients, start, rate, l2, steps, deltas, losses):
    """P full-batch steps of each client in the space of its margins z = B y.

    y_{p+1} = a·y_p + (η/n) Bᵀσ(−z_p), a = 1 − ηλ, so y_P = a^P y_0 + Bᵀc and z_{p+1} = a·z_p + (η/n) Gσ(−z_p)
    with G = BBᵀ, which is made once: a step costs n² products instead of 2·n·d.
    """
    d = start.size
    decay = 1.0 - rate * l2
    for k in range(clients.size):
        first, last = offsets[clients[k]], offsets[clients[k] + 1]
        n = last - first
        rows = b[first:last]
        g = gram[gram_at[clients[k]] : gram_at[clients[k]] + n * n].reshape(n, n)
        z, c, s, gs = np.empty(n), np.zeros(n), np.empty(n), np.empty(n)
        _matvec(rows, start, z)
        loss = 0.0
        for i in range(n):
            # log(1 + exp(-z)) without overflow
            loss += max(-z[i], 0.0) + np.log1p(np.exp(-abs(z[i])))
        losses[k] = loss / n + 0.5 * l2 * _dot(start, start)
        pull = rate / n
        for p in range(steps):
            for i in range(n):
                s[i] = pull / (1.0 + np.exp(z[i]))
                c[i] = decay * c[i] + s[i]
            if p + 1 < steps:
                _matvec(g, s, gs)
                for i in range(n):
                    z[i] = decay * z[i] + gs[i]
        shrink = decay**steps - 1.0
        out = deltas[k]
        for j in range(d):
            out[j] = shrink * start[j]
        for i in range(n):
            weight = c[i]
            row = rows[i]
            for j in range(d):
                out[j] += weight * row[j]


class LogisticTask(Task):
    """Full-batch local steps; together = 64 clients a call. Every client is computed as if alone."""

    together = 64

    def __init__(
        self,
        data: Dataset,
        partition: Partition,
        client: ClientConfig,
        dtype: torch.dtype,
        device: torch.device,
        *,
        l2: float | str,
    ):
        if data.classes != 2:
            raise DataError(
                f"model logistic separates 2 classes, this data set has {data.classes}; use mlp or cnn"
            )
        if client.batch_size != "full" or client.momentum or client.weight_decay:
            raise DataError(
                "model logistic trains with client.batch_size = 'full', without momentum and weight_decay "
                "(task.l2 is its regulariser)"
            )
        self.dtype, self.device, self.client = dtype, torch.device("cpu"), client
        x = self._signed = _signed(data.x, data.y)
        has_test = data.test_x is not None and data.test_y is not None
        self._test = _signed(data.test_x, data.test_y) if has_test else x  # type: ignore[arg-type]
        self.layout = Layout(("weight",), ((x.shape[1],),))
        self.l2 = 1.0 / len(x) if l2 == "1/n" else float(l2)
        self.partition = partition
        self.clients = len(partition)
        self._rows = np.ascontiguousarray(self._signed[partition.order])
        sizes = partition.sizes().astype(np.int64)
        if (needed := int((sizes**2).sum()) * 8) > GRAM_LIMIT_BYTES:
            raise DataError(
                f"model logistic keeps a Gram matrix a client, {needed >> 20} MiB here; "
                "give the clients fewer examples each (task.clients)"
            )
        self._gram_at = np.concatenate([[0], np.cumsum(sizes**2)])
        self._gram = np.empty(int(self._gram_at[-1]))
        for c in range(self.clients):
            rows = self._rows[partition.offsets[c] : partition.offsets[c + 1]]
            self._gram[self._gram_at[c] : self._gram_at[c + 1]] = (rows @ rows.T).ravel()
        self._offsets = partition.offsets.astype(np.int64)
        self._losses = np.empty(self.together)

    def initial(self, seed: int) -> Tensor:
        """x^0 = 0, as in the authors' experiment."""
        return torch.zeros(self.layout.elements, dtype=self.dtype)

    def examples(self, client: int) -> int:
        return int(self._offsets[client + 1] - self._offsets[client])

    def train(
        self, client: int, start: Tensor, delta: Tensor, seed: int, poll: Poll | None = None
    ) -> TrainResult:
        if poll is not None:
            poll()
        return self.train_together([client], start, delta[None], [seed])[0]

    def train_together(
        self, clients: Sequence[int], start: Tensor, deltas: Tensor, seeds: Sequence[int]
    ) -> list[TrainResult]:
        steps = self.client.steps(1)
        wide = deltas.dtype == torch.float64
        out = deltas.numpy() if wide else np.empty(deltas.shape)
        losses = self._losses if len(clients) <= self.together else np.empty(len(clients))
        _full_batch(
            self._rows,
            self._gram,
            self._gram_at,
            self._offsets,
            np.asarray(clients, dtype=np.int64),
            start.numpy().astype(np.float64, copy=False),
            self.client.learning_rate,
            self.l2,
            steps,
            out,
            losses,
        )
        if not wide:
            deltas.copy_(torch.from_numpy(out))
        offsets = self._offsets
        return [
            TrainResult(loss, int(offsets[c + 1] - offsets[c]), steps)
            for c, loss in zip(clients, losses.tolist(), strict=False)
        ]

    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        """f(x) with its L2 term, and the share of margins above zero."""
        w = x.numpy().astype(np.float64, copy=False)
        margins = self._test[:examples] @ w
        loss = float(np.logaddexp(0.0, -margins).mean() + 0.5 * self.l2 * (w @ w))
        return Evaluation(loss, float((margins > 0).mean()), len(margins))

    def gradient_norm_squared(self, x: Tensor) -> float:
        w = x.numpy().astype(np.float64, copy=False)
        pull = 1.0 / (1.0 + np.exp(self._signed @ w))
        gradient = self.l2 * w - self._signed.T @ pull / len(pull)
        return float(gradient @ gradient)


def _signed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """±a: each example times its label."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.ascontiguousarray(flat * np.where(y == 1, 1.0, -1.0)[:, None])
