"""Binary logistic regression with an L2 term, the paper's convex experiment.

f(x) = (1/n) Σ_i log(1 + exp(−b_i·x)) + (λ/2)‖x‖², with b_i = ±a_i the example times its label.
A client's objective is the same over its own examples. Trained on the CPU, in float64 inside.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout
from qafel_mpi.tasks import logistic_kernels as kernels
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult
from qafel_mpi.tasks.batches import batches
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.held import Arrays, about, packed
from qafel_mpi.tasks.partitions import Partition

TOGETHER = 64  # one call of the kernel for so many clients: enough to hide the call


class LogisticTask(Task):
    """Full-batch steps without momentum run in the space that the client's examples span, others one by one.

    On mushrooms with 100 clients that has 15 to 49 dimensions in place of 113.
    Every client is computed as if alone: `together` changes no bit.
    """

    same_bits_together = compiled = True

    def __init__(self, arrays: Arrays, client: ClientConfig, *, dtype: torch.dtype, l2: float | str):
        """arrays: what `pack` has made of the data; they are only read."""
        self.dtype, self.device, self.client = dtype, torch.device("cpu"), client
        self._rows, self._test = arrays["rows"], arrays["test"]
        self.l2 = 1.0 / len(self._rows) if l2 == "1/n" else float(l2)
        self.layout = Layout(("weight",), ((self._rows.shape[1],),))
        self._offsets = arrays["offsets"]
        self.clients, self.data_digest = len(self._offsets) - 1, about(arrays)["digest"]
        self.together = TOGETHER if client.together == "auto" else client.together
        self._bases, self._basis_at = arrays["bases"], arrays["basis_at"]
        self._columns, self._columns_at = arrays["columns"], arrays["columns_at"]
        self._in_span, self._all_in_span = arrays["in_span"], bool(arrays["in_span"].all())

    def initial(self, seed: int) -> Tensor:
        """x^0 = 0, as in the authors' experiment."""
        return torch.zeros(self.layout.elements, dtype=self.dtype)

    def examples(self, client: int) -> int:
        return self._offsets.item(client + 1) - self._offsets.item(client)

    def sizes(self) -> np.ndarray:
        return np.diff(self._offsets)

    def rows(self, client: int) -> np.ndarray:
        """The client's b_i, (n, d) float64: a view."""
        return self._rows[self._offsets[client] : self._offsets[client + 1]]

    def train(
        self,
        client: int,
        start: Tensor,
        delta: Tensor,
        seed: int,
        poll: Poll | None = None,
        *,
        version: int = 0,
    ) -> TrainResult:
        rate = self.client.rate_at(version)
        if self._in_span[client]:
            loss = self._train_in_span(np.array([client]), start, delta[None], rate)[0]
            if poll is not None:
                poll()  # not before: start may move on in it
            return TrainResult(float(loss), self.examples(client), self.client.steps(1))
        return self._train_steps(client, start, delta, seed, rate, poll)

    def train_together(
        self,
        clients: Sequence[int],
        start: Tensor,
        deltas: Tensor,
        seeds: Sequence[int],
        poll: Poll | None = None,
        *,
        version: int = 0,
    ) -> np.ndarray:
        if self._all_in_span or all(self._in_span[client] for client in clients):
            if poll is not None:
                poll()
            rate = self.client.rate_at(version)
            return self._train_in_span(np.array(clients, dtype=np.int64), start, deltas, rate)
        return super().train_together(clients, start, deltas, seeds, poll, version=version)

    def _train_in_span(self, clients: np.ndarray, start: Tensor, deltas: Tensor, rate: float) -> np.ndarray:
        settings, steps = self.client, self.client.steps(1)
        out = deltas.numpy() if deltas.dtype == torch.float64 else np.empty(deltas.shape)
        losses = np.empty(len(clients))
        kernels.train_clients(
            self._offsets,
            self._bases,
            self._basis_at,
            self._columns,
            self._columns_at,
            clients,
            _wide(start),
            rate,
            self.l2,
            self.l2 + settings.weight_decay,
            steps,
            out,
            losses,
        )
        if deltas.dtype != torch.float64:
            deltas.copy_(torch.from_numpy(out))
        return losses

    def _train_steps(
        self, client: int, start: Tensor, delta: Tensor, seed: int, rate: float, poll: Poll | None
    ) -> TrainResult:
        """Mini-batches, momentum, or many examples."""
        settings, n = self.client, self.examples(client)
        first = int(self._offsets[client])
        size, steps = settings.batch(n), settings.steps(n)
        y_0 = _wide(start).copy()
        y, gradient, velocity = y_0.copy(), np.empty_like(y_0), np.zeros_like(y_0)
        z, e, s = np.empty((3, size))
        losses = 0.0
        for batch in batches(torch.arange(first, first + n), size, steps, seed):
            rows = self._rows[first : first + n] if size == n else self._rows[batch.numpy()]
            rows.flags.writeable = (
                self._rows.flags.writeable
            )  # of one type: no kernel is compiled during a run
            losses += kernels.gradient(rows, y, self.l2, gradient, z, e, s)
            velocity = settings.momentum * velocity + gradient + settings.weight_decay * y
            y -= rate * velocity
            if poll is not None:
                poll()
        delta.copy_(torch.from_numpy(y - y_0))
        return TrainResult(losses / steps, n, steps)

    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        """f(x) with its L2 term, over the test set or, where there is none, all training data; accuracy: the
        share of positive margins."""
        w = _wide(x)
        rows = self._test[:examples]
        margins = np.empty(len(rows))
        # Not numpy's product: its BLAS takes all cores whatever torch is told, and then waits busily.
        kernels.dot_rows(rows, w, margins)
        loss = float(np.logaddexp(0.0, -margins).mean() + 0.5 * self.l2 * (w @ w))
        return Evaluation(loss, float((margins > 0).mean()), len(margins))

    def gradient_norm_squared(self, x: Tensor) -> float:
        w = _wide(x)
        gradient, (z, e, s) = np.empty_like(w), np.empty((3, len(self._rows)))
        kernels.gradient(self._rows, w, self.l2, gradient, z, e, s)
        return float(gradient @ gradient)


def _wide(x: Tensor) -> np.ndarray:
    """As float64 on the host; a view where it is that already."""
    return x.to("cpu", torch.float64).numpy()


def _signed(data: Dataset, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, d): each example times its label as ±1."""
    seen = x.reshape(len(x), -1) * np.float64(data.scale) + data.shift
    return np.ascontiguousarray(seen * np.where(y == 1, 1.0, -1.0)[:, None])


def pack(data: Dataset, dealt: Partition, client: ClientConfig) -> Arrays:
    """The arrays of a LogisticTask. Raises DataError where the data set has other than 2 classes of vectors.

    rows: (n, d) float64, every b_i, client by client; test: the same of the test set, or of all in the data's order.
    """
    if data.targets != "classes" or data.vocabulary is not None:
        raise DataError("model logistic separates 2 classes of vectors; for other data use another model")
    if data.classes != 2:
        raise DataError(
            f"model logistic separates 2 classes, this data set has {data.classes}; use mlp or cnn"
        )
    signed = _signed(data, data.x, data.y)
    test = signed if data.test_x is None else _signed(data, *data.evaluated)
    rows, offsets = signed[dealt.order], dealt.offsets.astype(np.int64)
    spans = _spans(rows, offsets, client)
    return packed({"digest": data.digest()}, rows=rows, test=test, offsets=offsets, **spans)


def _spans(rows: np.ndarray, offsets: np.ndarray, client: ClientConfig) -> Arrays:
    """A basis of what each client's examples span, and the examples in it, where that saves time.

    A client with more than 2·d examples is trained step by step: its span has all d dimensions anyway.
    """
    d, sizes = rows.shape[1], np.diff(offsets)
    wanted = (sizes <= 2 * d) & (client.batch_size == "full" and not client.momentum)
    most = np.minimum(sizes, d) * wanted
    # Room for full rank; what turns out not to be needed is never touched, and so takes no memory.
    bases = np.zeros(int(most.sum()) * d)
    columns = np.zeros(int((most * (sizes + kernels.LANES)).sum()))
    basis_at, columns_at = np.zeros((2, len(sizes) + 1), dtype=np.int64)
    kernels.find_spans(rows, offsets, wanted, bases, basis_at, columns, columns_at)
    return {
        "bases": bases[: basis_at[-1]],
        "basis_at": basis_at,
        "columns": columns[: columns_at[-1]],
        "columns_at": columns_at,
        "in_span": wanted,
    }
