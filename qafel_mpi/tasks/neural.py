"""A torch module on a data set: local SGD on the flat vector, evaluation, full gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.tasks import targets
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult, poll_until_computed
from qafel_mpi.tasks.batches import batches
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.partitions import Partition
from qafel_mpi.tasks.together import Together

EVALUATION_BATCH = {"cpu": 100, "cuda": 1000}  # a CNN's activations should fit into a core's cache
EVALUATION_OUTPUTS = 2**25  # at most, of a batch: of a large vocabulary they need more memory than all else
# Measured on the CPU with digits-sized MLPs: batches of 8 clients 1.5 times as fast as one at a time, of 32 three
# times; fewer clients, or more parameters, gain nothing.
LEAST_TOGETHER, USUALLY_TOGETHER, TOGETHER_ELEMENTS = 8, 32, 50_000


class NeuralTask(Task):
    """One training copy of the model, whatever the number of clients.

    train, evaluate and gradient_norm_squared use that copy in turn: none may be called from within a poll.
    start and delta may lie on any device.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        data: Dataset,
        partition: Partition,
        client: ClientConfig,
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        small_layers: bool = False,
    ):
        """small_layers: of a kind that was measured to train faster in batches of clients, if it is small."""
        self.dtype, self.device, self.client, self.partition = dtype, device, client, partition
        self.clients, self.data_digest = len(partition), data.digest()
        self._make = make
        self._scale, self._shift = data.scale, data.shift
        self._targets, self._classes, self._tokens = data.targets, data.classes, data.vocabulary is not None
        self.x, self.y = self._placed(data.x, data.y)
        self.test_x, self.test_y = (
            self._placed(*data.evaluated) if data.test_x is not None else (self.x, self.y)
        )
        self.flat = self._fresh(seed)
        self.layout = self.flat.layout
        self._velocity = vector_like(self.flat.gradient).zero_() if client.momentum else None
        self._may_draw = _may_draw(self.flat.module)
        self._norms = [m for m in self.flat.module.modules() if isinstance(m, _BatchNorm)]
        self._check_outputs(data)
        self.together = self._clients_together(small_layers)
        self._batch = Together(self.flat, client, self._targets) if self.together > 1 else None

    def _clients_together(self, small_layers: bool) -> int:
        wanted = self.client.together
        if wanted == "auto":
            small = small_layers and self.layout.elements <= TOGETHER_ELEMENTS
            return USUALLY_TOGETHER if small else 1
        if wanted > 1 and (reason := self._why_not_together()) is not None:
            raise DataError(f"client.together = {wanted}: {reason}; set it to 1 or 'auto'")
        return wanted

    def _placed(self, x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
        examples = torch.from_numpy(np.ascontiguousarray(x))
        dtype = examples.dtype if self._tokens or examples.dtype == torch.uint8 else self.dtype
        return examples.to(self.device, dtype), targets.placed(self._targets, y, self.dtype, self.device)

    def _fresh(self, seed: int) -> FlatModule:
        """The module with its own initialisation, from the run's seed."""
        with _own_random_numbers(derive(seed, Stream.INIT), self.device):
            return FlatModule(self._make(), self.dtype, self.device)

    def _check_outputs(self, data: Dataset) -> None:
        try:
            with torch.no_grad(), _own_random_numbers(0, self.device):
                outputs = self.flat.module.eval()(self._seen(self.x[:2]))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"the model can't take examples of shape {data.shape}: {error}") from error
        wanted = targets.output_shape(self._targets, self.y[:2], data.classes)
        if outputs.shape != wanted:
            raise DataError(
                f"the model gives {tuple(outputs.shape)} for {wanted[0]} examples of {data.classes} "
                f"{'classes' if data.targets == 'tokens' else data.targets}; it must be {wanted}"
            )

    def _why_not_together(self) -> str | None:
        if self.flat.trained != self.layout.elements:
            return (
                "the model has buffers or frozen parameters, which training in one batch does not keep apart"
            )
        if _random_layers(self.flat.module):
            return "the model's dropout would draw other numbers than one client at a time"
        return None

    def initial(self, seed: int) -> Tensor:
        return self._fresh(seed).vector

    def examples(self, client: int) -> int:
        return len(self.partition.indices(client))

    def sizes(self) -> np.ndarray:
        return self.partition.sizes()

    def train(
        self, client: int, start: Tensor, delta: Tensor, seed: int, poll: Poll | None = None
    ) -> TrainResult:
        flat, module = self.flat, self.flat.module
        flat.load(start)
        # y_0 stays in delta until the end, or beside the module where that is on another device.
        y_0 = delta if delta.device == flat.vector.device else torch.empty_like(flat.vector)
        y_0.copy_(flat.vector)
        if self._velocity is not None:
            self._velocity.zero_()
        module.train()
        losses = torch.zeros((), dtype=self.dtype, device=self.device)
        n, steps = self.examples(client), 0
        with self._drawing(seed):
            for batch in self._batches(client, seed):
                for norm in self._norms:
                    norm.train(len(batch) > 1)  # one example has no statistics: it takes the running ones
                flat.gradient.zero_()
                loss = self._loss(*self._taken(batch))
                loss.backward()
                self._descend()
                losses += loss.detach()
                steps += 1
                if poll is not None:
                    poll()
        torch.sub(flat.vector, y_0, out=y_0)
        if y_0 is not delta:
            delta.copy_(y_0)
        poll_until_computed(delta, poll)
        return TrainResult(float(losses) / steps, n, steps)

    def train_together(
        self, clients: Sequence[int], start: Tensor, deltas: Tensor, seeds: Sequence[int]
    ) -> np.ndarray:
        if self._batch is None or len(clients) < LEAST_TOGETHER:
            return super().train_together(clients, start, deltas, seeds)
        plans = [list(self._batches(client, seed)) for client, seed in zip(clients, seeds, strict=True)]
        self.flat.module.train()
        losses = self._batch.train(plans, start, deltas, self._taken)
        return np.array(losses)

    def _batches(self, client: int, seed: int) -> Iterator[Tensor]:
        indices = torch.from_numpy(self.partition.indices(client).astype(np.int64)).to(self.device)
        n = len(indices)
        return batches(indices, self.client.batch(n), self.client.steps(n), seed)

    def _loss(self, x: Tensor, y: Tensor) -> Tensor:
        return targets.loss(self._targets, self.flat.module(x), y)

    def _taken(self, batch: Tensor | slice) -> tuple[Tensor, Tensor]:
        """(x, y) of some training examples, as the model and the loss take them."""
        return self._seen(self.x[batch]), targets.taken(self._targets, self.y[batch])

    def _seen(self, x: Tensor) -> Tensor:
        """What the model sees: pixels are kept as bytes, and tokens in their small type."""
        if self._tokens:
            return x.long()
        if x.dtype == self.dtype and (self._scale, self._shift) == (1.0, 0.0):
            return x
        return (x.to(self.dtype) * self._scale).add_(self._shift)

    def _drawing(self, seed: int) -> AbstractContextManager[None]:
        return _own_random_numbers(seed, self.device) if self._may_draw else nullcontext()

    def _descend(self) -> None:
        """One SGD step on the flat vector: one operation, not one a tensor."""
        weights, gradient = self.flat.vector[: self.flat.trained], self.flat.gradient
        if self.client.weight_decay:
            gradient.add_(weights, alpha=self.client.weight_decay)
        if self._velocity is not None:
            gradient = self._velocity.mul_(self.client.momentum).add_(gradient)
        weights.add_(gradient, alpha=-self.client.learning_rate)

    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        return Evaluation.combined(
            [self.evaluate_part(x, part, examples) for part in range(self.parts(examples))]
        )

    def parts(self, examples: int | None = None) -> int:
        return len(self._slices(min(examples or len(self.test_y), len(self.test_y))))

    @torch.no_grad()
    def evaluate_part(self, x: Tensor, part: int, examples: int | None = None) -> Evaluation:
        self.flat.load(x)
        self.flat.module.eval()
        where = self._slices(min(examples or len(self.test_y), len(self.test_y)))[part]
        outputs = self.flat.module(self._seen(self.test_x[where]))
        y, kind = targets.taken(self._targets, self.test_y[where]), self._targets
        loss = float(targets.loss(kind, outputs, y))
        return Evaluation(loss, targets.accuracy(kind, outputs, y), len(y), targets.answers(kind, y))

    def _slices(self, n: int) -> list[slice]:
        outputs = math.prod(targets.output_shape(self._targets, self.y[:1], self._classes))
        size = min(EVALUATION_BATCH.get(self.device.type, 100), max(1, EVALUATION_OUTPUTS // outputs))
        return [slice(begin, min(begin + size, n)) for begin in range(0, n, size)]

    def gradient_norm_squared(self, x: Tensor) -> float:
        """‖∇f(x)‖² of the mean loss over all clients' examples, layers as in evaluation."""
        self.flat.load(x)
        self.flat.module.eval()
        self.flat.gradient.zero_()
        n = len(self.y)
        for where in self._slices(n):
            x, y = self._taken(where)
            (targets.loss(self._targets, self.flat.module(x), y, "none").sum() / n).backward()
        return float(self.flat.gradient.double().square().sum())


def _random_layers(module: nn.Module) -> bool:
    """Whether torch's own layers in it draw random numbers in training."""
    return any(isinstance(m, nn.RReLU) or (isinstance(m, _DropoutNd) and m.p > 0) for m in module.modules())


def _may_draw(module: nn.Module) -> bool:
    """Whether its forward pass may draw random numbers; of the user's own layers it can't be known."""
    known = ("torch.nn.modules.", "qafel_mpi.")
    return _random_layers(module) or not all(type(m).__module__.startswith(known) for m in module.modules())


@contextmanager
def _own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside, and leave them as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed & (2**63 - 1))
        yield
