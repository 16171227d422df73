"""A model of the user's own, tried once before the run: on real examples, in both modes, with a training step.

What it gives is checked, and what cannot be known from its layers' types is found out: which buffers and attributes
training moves, and whether a batch of one example is too few. Whatever does not fit is one DataError here, and not a
wrong number or a traceback in the middle of a run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook

from qafel_mpi.own import said
from qafel_mpi.tasks import state
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.examples import Examples
from qafel_mpi.tasks.flat import NOTHING, Moved
from qafel_mpi.tasks.make import failing_layer_named, freeze
from qafel_mpi.tasks.objective import Objective
from qafel_mpi.tasks.randomness import own_random_numbers

EXAMPLES = 4  # of a trial's batch
PASSES = 3  # in training, so that what one leaves behind meets the next


@dataclass(frozen=True)
class Tried:
    """What a trial has shown. least: examples that a training batch needs. alone: why one example can't be trained
    on even with the running statistics of norms, or an empty text."""

    moved: Moved = NOTHING
    least: int = 1
    alone: str = ""

    def refuse_clients_of_one(self, sizes: np.ndarray, client: ClientConfig) -> None:
        """Raise DataError where a batch would have one example and the model can't be trained on it.

        sizes: examples of each client.
        """
        if not self.alone:
            return
        if client.batch_size == 1:
            raise DataError(f"client.batch_size = 1: {self.alone}; set it to 2 at least")
        one = int(np.argmin(sizes))
        if sizes[one] == 1:
            raise DataError(
                f"client {one} has one training example: {self.alone}; have fewer clients (task.clients), or another "
                "partition, so that each has two"
            )


def run(module: nn.Module, objective: Objective, data: Examples, trainable: str | None = None) -> Tried:
    """Try a module of the user's, which is used up.

    Raises DataError, which says what the model was given, what it gave, and what is wanted.
    """
    still = freeze(module, trainable) if trainable is not None else []
    trial = Trial(module.to(data.device, data.dtype), still, objective, data)
    with own_random_numbers(0, data.device):
        trial.evaluate()
        moved = trial.train()
        least, alone = trial.one_example()
    return Tried(moved, least, alone)


def require_repeatable(
    train_on: Callable[[Iterable[Tensor], Tensor, Tensor, int], tuple[float, int]], data: Examples, x0: Tensor
) -> None:
    """Train twice on the same examples from x0 and by the same seed. Raises DataError where the ends differ.

    So is found what no attribute shows: state in a global variable, a generator that nobody seeds.
    """
    batch = torch.arange(min(EXAMPLES, len(data)), device=data.device)
    ends = [torch.empty_like(x0), torch.empty_like(x0)]
    for end in ends:
        train_on([batch, batch], x0, end, 1)
    apart, length = (float(torch.linalg.vector_norm(v)) for v in (ends[0] - ends[1], ends[0]))
    # Bit for bit but where sums are taken in no fixed order: by several threads, or on a GPU.
    exact = data.device.type == "cpu" and torch.get_num_threads() == 1
    if not apart <= (0.0 if exact else 1e-3 * length):
        raise DataError(
            "the model trains differently from the same start, examples and seed (the second time "
            f"{apart / max(length, 1e-300):.2g} of the update's length apart): it draws from a generator of its own, "
            "or keeps state where it is not seen; draw from torch's, numpy's or Python's global generator, which are "
            "seeded for every training, and keep state in buffers"
        )


def norms_of(module: nn.Module) -> list[_BatchNorm]:
    """The batch norms that train, and that have running statistics to fall back on. module: in training mode."""
    return [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]


class Trial:
    """The module on the device, and what it is tried with. still: layers that stay in evaluation mode."""

    def __init__(self, module: nn.Module, still: Sequence[nn.Module], objective: Objective, data: Examples):
        self.module, self.still, self.objective, self.data = module, still, objective, data

    def train_mode(self) -> None:
        self.module.train()
        for layer in self.still:
            layer.eval()

    def evaluate(self) -> None:
        self.module.eval()
        x, y = self.data.tested(slice(0, 2))
        with torch.no_grad(), self._naming(x, "in evaluation"):
            outputs = self.module(x)
        self.objective.check_outputs(outputs, y, "in evaluation")
        with torch.no_grad():
            self._loss(outputs, y, trained=False)

    def _loss(self, outputs: Any, y: Tensor, *, trained: bool) -> Tensor:
        """The mean loss of a batch, or each example's."""
        own = self.objective.own
        with _naming_loss():
            value = self.objective.loss(outputs, y) if own is None else own(outputs, y)
        if own is not None:
            self.objective.check_loss(value, y, trained=trained)
        return value

    def train(self) -> Moved:
        self.train_mode()
        x, y = self.data.taken(slice(0, EXAMPLES))
        buffers = {name: (b, b.clone()) for name, b in self.module.named_buffers()}
        known = (*self.module.parameters(), *self.module.buffers())
        attributes = state.digests(self.module, known)
        for _ in range(PASSES):
            if (bad := self._step(x, y)) is not None:
                raise DataError(
                    f"{bad} is not finite for the first {len(x)} training examples: nothing can be learnt"
                )
        after = dict(self.module.named_buffers())
        moved = {
            name
            for name, (buffer, before) in buffers.items()
            if buffer.is_floating_point() and not _same(after.get(name), before)
        }
        known = (*self.module.parameters(), *self.module.buffers())
        changed = state.changed(attributes, state.digests(self.module, known))
        return Moved(frozenset(moved), frozenset(changed))

    def _step(self, x: Tensor, y: Tensor) -> str | None:
        """A forward and a backward pass. Returns what of them is not finite, or None."""
        self.module.zero_grad(set_to_none=True)
        with self._naming(x, "in training"), _first_not_finite(self.module) as found:
            outputs = self.module(x)
        self.objective.check_outputs(outputs, y, "in training")
        loss = self._loss(outputs, y, trained=True).mean()
        if not loss.requires_grad:
            raise DataError("the model's outputs in training do not depend on its parameters: no gradient")
        with self._naming(x, "in training (the backward pass)"):
            loss.backward()
        grads = {name: p.grad for name, p in self.module.named_parameters() if p.grad is not None}
        bad = [] if _finite(loss) else ["the loss"]
        bad += [f"the gradient of {name!r}" for name, grad in grads.items() if not _finite(grad)]
        return next(iter([*found, *bad]), None) if bad else None

    def one_example(self) -> tuple[int, str]:
        self.train_mode()
        if not self._fails_alone():
            return 1, ""
        norms = norms_of(self.module)
        for norm in norms:
            norm.eval()
        return 2, self._fails_alone()

    def _fails_alone(self) -> str:
        """Why a training step on one example fails, or an empty text."""
        x, y = self.data.taken(slice(0, 1))
        try:
            with warnings.catch_warnings():  # what a layer says of its own accord is asked for here
                warnings.simplefilter("ignore")
                bad = self._step(x, y)
        except DataError as error:
            return str(error)
        return f"{bad} is not finite" if bad else ""

    @contextmanager
    def _naming(self, x: Tensor, mode: str) -> Iterator[None]:
        with failing_layer_named(self.module, f"a batch of {tuple(x.shape)} ({x.dtype}) {mode}"):
            yield


@contextmanager
def _naming_loss() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise DataError(f"the loss can't take what the model gives: {said(error)}") from error


@contextmanager
def _first_not_finite(module: nn.Module) -> Iterator[list[str]]:
    """Collects what the first layer gives that is not finite while all it was given is."""
    names = {id(layer): name for name, layer in module.named_modules()}
    found: list[str] = []

    def look(layer: nn.Module, inputs: Sequence[Any], output: Any) -> None:
        if not found and isinstance(output, Tensor) and not _finite(output):
            name = names.get(id(layer))
            found.append(
                f"what layer {name!r} ({type(layer).__name__}) of the model gives"
                if name
                else "what the model gives"
            )

    hook = register_module_forward_hook(look)
    try:
        yield found
    finally:
        hook.remove()


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.to_dense() if tensor.is_sparse else tensor).all())


def _same(after: Tensor | None, before: Tensor) -> bool:
    if after is None or after.shape != before.shape:
        return False
    return bool(((after == before) | (after.isnan() & before.isnan())).all())
