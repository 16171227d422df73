"""What a driver sees of a task: vectors in, vectors out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Layout

Poll = Callable[[], None]


def poll_until_computed(vector: Tensor, poll: Poll | None) -> None:
    """Poll while a GPU works on what is queued for it, this vector included; on a CPU everything is done already.

    The host is ahead by all of a short training: asked for a number of it, it would only wait.
    """
    if poll is None or not vector.is_cuda:
        return
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(vector.device))
    while not done.query():
        poll()


@dataclass(frozen=True, slots=True)
class TrainResult:
    """loss: mean training loss over the local steps; examples: the client's; steps: P."""

    loss: float
    examples: int
    steps: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """accuracy: the share of right answers, nan where the task has none. answers: of each example, its tokens or
    labels; 1 where it has one."""

    loss: float
    accuracy: float
    examples: int
    answers: int = 1

    @staticmethod
    def combined(parts: Sequence[Evaluation]) -> Evaluation:
        """Of all examples, from the evaluations of some each; the same bits whoever made the parts."""
        if len(parts) == 1:
            return parts[0]
        n = sum(part.examples for part in parts)
        loss = sum(part.loss * part.examples for part in parts) / n
        answers = parts[0].answers
        if any(math.isnan(part.accuracy) for part in parts):
            return Evaluation(loss, math.nan, n, answers)
        # Whole numbers of right answers: a target is compared with the share.
        right = sum(round(part.accuracy * part.examples * answers) for part in parts)
        return Evaluation(loss, right / (n * answers), n, answers)


class Task(ABC):
    """Data, model and local training of every client, on one flat vector of `layout.elements` values.

    together: how many clients that start from one version are trained as one batch; a property of the task
    and its settings alone, so that results don't depend on who trains.
    same_bits_together: whether a client that is trained with others gets the very bits that it gets alone.
    compiled: whether kernels of ours train, which the first run on a machine compiles.
    data_digest: of the data set as it was loaded; "" where there is none.
    state_digest: of all that training reads beside x and the data (frozen parameters, constants); "" where there is
    nothing.
    notes: what the user should know of this task, a sentence each.
    bytes_per_token, entropy_bits_per_byte: of a data set that is text, as datasets.py has them.
    """

    layout: Layout
    dtype: torch.dtype
    device: torch.device
    clients: int
    together: int = 1
    same_bits_together: bool = False
    compiled: bool = False
    data_digest: str = ""
    state_digest: str = ""
    notes: tuple[str, ...] = ()
    bytes_per_token: float = math.nan
    entropy_bits_per_byte: float = math.nan

    def bits_per_byte(self, loss: float) -> float:
        """A mean loss, in nats per token, as bits per byte of text; nan where the data are no text."""
        return loss / math.log(2) / self.bytes_per_token

    @abstractmethod
    def initial(self, seed: int) -> Tensor:
        """x^0, (d,)."""

    @abstractmethod
    def examples(self, client: int) -> int:
        """How many training examples the client has."""

    def sizes(self) -> np.ndarray:
        """The training examples of every client, (clients,) int64."""
        return np.fromiter(map(self.examples, range(self.clients)), np.int64, self.clients)

    @abstractmethod
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
        """Algorithm 2: y_0 = start, P local steps, delta[:] = y_P − y_0. start, delta: (d,).

        start is copied before the first step: it may move on while the client trains. poll, if given, is called
        between steps and while a GPU computes; what it raises ends the training. seed: the derived key of this
        client's shuffling. version: t of start = x̂^t, which the learning rate may follow. Raises TrainingError.
        """

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
        """Several clients from one version. deltas: (n, d). Returns TrainResult.loss of each, (n,) float64.

        poll: as in `train`.
        """
        each = enumerate(zip(clients, seeds, strict=True))
        return np.array(
            [
                self.train(client, start, deltas[i], seed, poll, version=version).loss
                for i, (client, seed) in each
            ]
        )

    @abstractmethod
    def evaluate(self, x: Tensor, examples: int | None = None) -> Evaluation:
        """Loss and accuracy of x on the test set, or on its first `examples`. Draws no random number."""

    def parts(self, examples: int | None = None) -> int:
        """How many parts evaluate() consists of, for ranks that share the work."""
        return 1

    def evaluate_part(self, x: Tensor, part: int, examples: int | None = None) -> Evaluation:
        """One of the parts, counted from 0; evaluate() is Evaluation.combined of all, in order."""
        return self.evaluate(x, examples)

    @abstractmethod
    def gradient_norm_squared(self, x: Tensor) -> float:
        """‖∇f(x)‖² of the full training objective."""
