"""Classification with a torch module whose parameters are views into one flat vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qafel_mpi.codecs.base import Layout
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.formats import DataError
from qafel_mpi.tasks.partitions import Partition

EVALUATION_BATCH = 1000


class FlatModule:
    """A module bound to one flat vector: its parameters, and their gradients, are views.

    Buffers of normalisation layers (BatchNorm's running mean and variance) take part: they follow the parameters
    in the vector, so they are sent, averaged and quantized like them, and what a client computes depends on the
    vector alone. A running variance that quantization made negative is held at zero. Counters of batches stay
    local; they have no effect with a fixed momentum.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device):
        self.module = module.to(device=device, dtype=dtype)
        parameters = list(self.module.named_parameters())
        buffers = [(name, b) for name, b in self.module.named_buffers() if b.is_floating_point()]
        if not parameters:
            raise DataError("the model has no parameters")
        named = [*parameters, *buffers]
        self.layout = Layout(tuple(name for name, _ in named), tuple(tuple(t.shape) for _, t in named))
        self.trained = sum(p.numel() for _, p in parameters)
        self.vector = torch.empty(self.layout.elements, dtype=dtype, device=device)
        self.gradient = torch.zeros(self.trained, dtype=dtype, device=device)
        self._variances: list[Tensor] = []
        for k, (name, tensor) in enumerate(named):
            a, b = self.layout.offsets[k], self.layout.offsets[k + 1]
            view = self.vector[a:b].view(tensor.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            if isinstance(tensor, nn.Parameter):
                tensor.grad = self.gradient[a:b].view(tensor.shape)
            elif name.endswith("running_var"):
                self._variances.append(view)

    def load(self, x: Tensor) -> None:
        self.vector.copy_(x)
        for variance in self._variances:
            variance.clamp_(min=0)


class NeuralTask(Task):
    """Cross-entropy on a data set dealt to clients; local SGD on shuffled batches."""

    def __init__(
        self,
        make: Callable[[], nn.Module],
        data: Dataset,
        partition: Partition,
        client: ClientConfig,
        dtype: torch.dtype,
        device: torch.device,
    ):
        self.dtype, self.device, self.client = dtype, device, client
        self._make = make
        with _own_random_numbers(0):
            self.flat = FlatModule(make(), dtype, device)
        self.layout = self.flat.layout
        self.clients = len(partition)
        self.partition = partition
        self.x = torch.from_numpy(np.ascontiguousarray(data.x)).to(device=device, dtype=dtype)
        self.y = torch.from_numpy(data.y).to(device)
        if data.test_x is None or data.test_y is None:
            raise DataError("this data set has no test set: use model logistic, or give it one")
        self.test_x = torch.from_numpy(np.ascontiguousarray(data.test_x)).to(device=device, dtype=dtype)
        self.test_y = torch.from_numpy(data.test_y).to(device)
        self._shuffle = torch.Generator()
        self._velocity = torch.zeros_like(self.flat.gradient) if client.momentum else None

    def initial(self, seed: int) -> Tensor:
        """The module's own initialisation, from the run's seed; torch's global generator is left as it was."""
        with _own_random_numbers(derive(seed, Stream.INIT)):
            return FlatModule(self._make(), self.dtype, self.device).vector

    def examples(self, client: int) -> int:
        return len(self.partition.indices(client))

    def train(
        self, client: int, start: Tensor, delta: Tensor, seed: int, poll: Poll | None = None
    ) -> TrainResult:
        flat, module = self.flat, self.flat.module
        flat.load(start)
        # y_0 stays in delta until the end, or beside the module where that is on another device.
        y_0 = delta if delta.device == flat.vector.device else torch.empty_like(flat.vector)
        y_0.copy_(flat.vector)
        indices = torch.from_numpy(self.partition.indices(client))
        steps = self.client.steps(len(indices))
        if self._velocity is not None:
            self._velocity.zero_()
        module.train()
        losses = torch.zeros((), dtype=self.dtype, device=self.device)
        with _own_random_numbers(seed) if _draws(module) else _nothing():
            for batch in self._batches(indices, steps, seed):
                flat.gradient.zero_()
                loss = cross_entropy(module(self.x[batch]), self.y[batch])
                loss.backward()
                self._descend()
                losses += loss.detach()
                if poll is not None:
                    poll()
        torch.sub(flat.vector, y_0, out=y_0)
        if y_0 is not delta:
            delta.copy_(y_0)
        return TrainResult(float(losses) / steps, len(indices), steps)

    def _descend(self) -> None:
        """One SGD step on the flat vector: one operation, not one a tensor."""
        weights, gradient = self.flat.vector[: self.flat.trained], self.flat.gradient
        if self.client.weight_decay:
            gradient.add_(weights, alpha=self.client.weight_decay)
        if self._velocity is not None:
            gradient = self._velocity.mul_(self.client.momentum).add_(gradient)
        weights.add_(gradient, alpha=-self.client.learning_rate)

    def _batches(self, indices: Tensor, steps: int, seed: int) -> Iterator[Tensor]:
        """Batches without replacement, reshuffled every epoch."""
        n = len(indices)
        size = n if self.client.batch_size == "full" else min(self.client.batch_size, n)
        self._shuffle.manual_seed(seed & (2**63 - 1))
        done = 0
        while True:
            order = indices[torch.randperm(n, generator=self._shuffle)]
            for begin in range(0, n, size):
                if done == steps:
                    return
                yield order[begin : begin + size]
                done += 1

    @torch.no_grad()
    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        self.flat.load(x)
        self.flat.module.eval()
        n = min(examples or len(self.test_y), len(self.test_y))
        loss, correct = 0.0, 0
        for begin in range(0, n, EVALUATION_BATCH):
            where = slice(begin, min(begin + EVALUATION_BATCH, n))
            logits = self.flat.module(self.test_x[where])
            loss += float(cross_entropy(logits, self.test_y[where], reduction="sum"))
            correct += int((logits.argmax(1) == self.test_y[where]).sum())
        return Evaluation(loss / n, correct / n, n)

    def gradient_norm_squared(self, x: Tensor) -> float:
        self.flat.load(x)
        self.flat.module.eval()
        self.flat.gradient.zero_()
        n = len(self.y)
        for begin in range(0, n, EVALUATION_BATCH):
            where = slice(begin, begin + EVALUATION_BATCH)
            loss = cross_entropy(self.flat.module(self.x[where]), self.y[where], reduction="sum") / n
            loss.backward()
        return float(self.flat.gradient.double().square().sum())


def _draws(module: nn.Module) -> bool:
    """Whether a forward pass draws random numbers."""
    return any(isinstance(m, nn.Dropout) and m.p > 0 for m in module.modules())


@contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Seed torch's global generators inside, and leave them as they were."""
    with torch.random.fork_rng():
        torch.manual_seed(seed & (2**63 - 1))
        yield


@contextmanager
def _nothing() -> Iterator[None]:
    yield
