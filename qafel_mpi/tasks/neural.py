"""A torch module on a data set: local training on the flat vector, evaluation, full gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor, nn

from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.own import said
from qafel_mpi.tasks import trial
from qafel_mpi.tasks.base import Evaluation, Poll, Task, TrainResult, poll_until_computed
from qafel_mpi.tasks.batches import batches
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError, TrainingError
from qafel_mpi.tasks.examples import Examples
from qafel_mpi.tasks.flat import FlatModule
from qafel_mpi.tasks.make import made
from qafel_mpi.tasks.objective import Objective, OwnLoss
from qafel_mpi.tasks.optimizers import optimizer
from qafel_mpi.tasks.partitions import Partition
from qafel_mpi.tasks.perceptron import Perceptron, suits
from qafel_mpi.tasks.randomness import drawing, own_random_numbers, torchs_random_numbers
from qafel_mpi.tasks.together import Together, why_not_together

# Measured on the CPU with digits-sized MLPs under vmap: batches of 8 clients 1.5 times as fast as one at a time, of
# 32 three times; fewer clients, or more parameters, gain nothing.
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
        mlp: bool = False,
        own: bool = True,
        loss: OwnLoss | None = None,
    ):
        """mlp: the bundled model, which a kernel trains, or else batches of clients if it is small.

        own: model or loss are the user's, and are tried before they are used. Raises DataError.
        """
        self.dtype, self.device, self.client, self.partition = dtype, device, client, partition
        self.clients, self.data_digest = len(partition), data.digest()
        self.bytes_per_token = data.bytes_per_token or math.nan
        self.entropy_bits_per_byte = data.entropy_bits_per_byte()
        self.data = Examples(data, dtype, device)
        self.objective = Objective(data.targets, data.classes, loss)
        self._make, self._own, self._seed = make, own, seed
        self._tried = self._try(seed) if own else trial.Tried()
        self.flat = self._fresh(seed)
        self.layout, self.state_digest = self.flat.layout, self.flat.local_digest()
        self._optimizer = optimizer(client)
        self._norms = trial.norms_of(self.flat.module)
        self.least = 2 if self._norms else self._tried.least
        self._looked = False  # whether what is to stand still was looked at after a training
        if own:
            self._tried.refuse_clients_of_one(partition.sizes(), client)
            trial.require_repeatable(self.train_on, self.data, self.flat.vector.clone())
            self._looked = False
        else:
            self._check_outputs(data)
        fits = mlp and suits(self.flat, client, self.data, self.objective)
        self._perceptron = Perceptron(self.flat, client, self.data) if fits else None
        if fits:
            self.same_bits_together = self.compiled = True
            self.together = USUALLY_TOGETHER if client.together == "auto" else client.together
        self._batch = None if fits else self._clients_together(small_layers=mlp)

    def _clients_together(self, *, small_layers: bool) -> Together | None:
        """Sets `together`, above 1 where it was checked that clients learn then what each learns alone."""
        wanted = self.client.together
        if wanted == "auto":
            small = small_layers and self.layout.elements <= TOGETHER_ELEMENTS
            wanted = USUALLY_TOGETHER if small else 1
        if wanted == 1:
            return None
        batch = Together(self.flat, self.client, self.objective)
        reason = ""
        if self.client.together != "auto":
            reason = why_not_together(batch, self.train_on, self.data, self.client.rate_at(0))
        if reason:
            self.notes += (f"client.together = {wanted}: clients are trained one at a time, for {reason}",)
            return None
        self.together = wanted
        return batch

    def _made(self, seed: int) -> nn.Module:
        """The module with its own initialisation, from the run's seed."""
        key = derive(seed, Stream.INIT)
        numbers = own_random_numbers if self._own else torchs_random_numbers
        with numbers(key, self.device):
            x, _ = self.data.taken(slice(0, 2))
            return made(self._make, self.dtype, x.cpu())

    def _try(self, seed: int) -> trial.Tried:
        return trial.run(self._made(seed), self.objective, self.data, self.client.trainable)

    def _fresh(self, seed: int) -> FlatModule:
        return FlatModule(self._made(seed), self.dtype, self.device, self._tried.moved, self.client.trainable)

    def _check_outputs(self, data: Dataset) -> None:
        x, y = self.data.taken(slice(0, 2))
        try:
            with torch.no_grad(), torchs_random_numbers(0, self.device):
                outputs = self.flat.module.eval()(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise DataError(f"the model can't take examples of shape {data.shape}: {error}") from error
        self.objective.check_outputs(outputs, y, "in evaluation")

    def initial(self, seed: int) -> Tensor:
        return self._fresh(seed).vector

    def examples(self, client: int) -> int:
        return len(self.partition.indices(client))

    def sizes(self) -> np.ndarray:
        return self.partition.sizes()

    # --- training -------------------------------------------------------------------------------------

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
        if self._perceptron is not None:
            (mean,) = self.train_together([client], start, delta[None], [seed], poll, version=version)
            n = self.examples(client)
            return TrainResult(float(mean), n, self.client.steps(n, self.least))
        try:
            loss, steps = self.train_on(self._batches(client, seed), start, delta, seed, poll, version)
        except TrainingError as error:
            raise TrainingError(f"client {client}: {error}") from error.__cause__
        return TrainResult(loss, self.examples(client), steps)

    def train_on(
        self,
        plan: Iterable[Tensor],
        start: Tensor,
        delta: Tensor,
        seed: int,
        poll: Poll | None = None,
        version: int = 0,
    ) -> tuple[float, int]:
        """`train` on the batches of a plan, which are indices of examples. Returns the mean loss and the steps.

        Raises TrainingError where the model or the loss fails, and DataError where the model breaks its contract.
        """
        flat = self.flat
        flat.load(start)
        # y_0 stays in delta until the end, or beside the module where that is on another device.
        y_0 = delta if delta.device == flat.vector.device else torch.empty_like(flat.vector)
        y_0.copy_(flat.vector)
        flat.train_mode()
        with drawing(flat.module, seed, self.device, own=self._own):
            losses, steps = self._descend(plan, self.client.rate_at(version), poll)
        flat.collect()
        if not self._looked:
            flat.require_constant()
            self._looked = True
        torch.sub(flat.vector, y_0, out=y_0)
        if y_0 is not delta:
            delta.copy_(y_0)
        poll_until_computed(delta, poll)
        return float(losses) / steps, steps

    def _descend(self, plan: Iterable[Tensor], rate: float, poll: Poll | None) -> tuple[Tensor, int]:
        """A step a batch. Returns the sum of the losses, and the number of steps."""
        flat, steps = self.flat, 0
        weights, gradient = (
            [flat.vector[: flat.trained]],
            [flat.gradient],
        )  # one operation a step, not one a tensor
        losses = torch.zeros((), dtype=self.dtype, device=self.device)
        self._optimizer.begin(weights)
        for batch in plan:
            for norm in self._norms:
                norm.train(len(batch) > 1)  # one example has no statistics: it takes the running ones
            losses += self._gradient(batch)
            self._optimizer.step(weights, gradient, rate)
            steps += 1
            if poll is not None:
                poll()
        return losses, steps

    def _gradient(self, batch: Tensor) -> Tensor:
        """The mean loss of a batch; its gradient into flat.gradient."""
        x, y = self.data.taken(batch)
        self.flat.gradient.zero_()
        try:
            with self._precision():
                loss = self.objective.loss(self.flat.module(x), y)
            loss.backward()
        except Exception as error:
            raise TrainingError(said(error)) from error
        return loss.detach()

    def _precision(self) -> AbstractContextManager[object]:
        """What a forward pass of a training computes in."""
        if self.client.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

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
        if self._perceptron is None and (self._batch is None or len(clients) < LEAST_TOGETHER):
            return super().train_together(clients, start, deltas, seeds, poll, version=version)
        rate = self.client.rate_at(version)
        plans = [list(self._batches(client, seed)) for client, seed in zip(clients, seeds, strict=True)]
        if self._perceptron is not None:
            return np.array(self._perceptron.train(plans, start, deltas, rate, poll))
        assert self._batch is not None
        self.flat.train_mode()
        return np.array(self._batch.train(plans, start, deltas, self.data.taken, rate, poll))

    def _batches(self, client: int, seed: int) -> Iterator[Tensor]:
        indices = torch.from_numpy(self.partition.indices(client).astype(np.int64)).to(self.device)
        n = len(indices)
        return batches(indices, self.client.batch(n), self.client.steps(n, self.least), seed, self.least)

    # --- evaluation -----------------------------------------------------------------------------------

    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        return Evaluation.combined(
            [self.evaluate_part(x, part, examples) for part in range(self.parts(examples))]
        )

    def parts(self, examples: int | None = None) -> int:
        return len(self._slices(examples))

    def _slices(self, examples: int | None) -> list[slice]:
        """Of the first `examples` that are evaluated: two at least, for layers that need so many."""
        most = len(self.data.test_y)
        small = self._perceptron is not None
        return self.data.slices(min(max(2, examples or most), most), small=small)

    @torch.no_grad()
    def evaluate_part(self, x: Tensor, part: int, examples: int | None = None) -> Evaluation:
        self.flat.load(x)
        if self._own or self.flat.module.training:  # the call takes longer than a small model
            self.flat.module.eval()
        seen, y = self.data.tested(self._slices(examples)[part])
        return self.objective.evaluation(self.flat.module(seen), y)

    def gradient_norm_squared(self, x: Tensor) -> float:
        """‖∇f(x)‖² of the mean loss over all clients' examples, layers as in evaluation."""
        self.flat.load(x)
        self.flat.module.eval()
        self.flat.gradient.zero_()
        n = len(self.data)
        for where in self.data.slices(n):
            seen, y = self.data.taken(where)
            (self.objective.total(self.flat.module(seen), y) / n).backward()
        return float(self.flat.gradient.double().square().sum())
