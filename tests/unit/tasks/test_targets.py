"""Targets: every kind is learnt, judged by its own numbers, and refused where arrays or outputs don't fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from qafel_mpi.tasks import DataError, Dataset, Evaluation
from qafel_mpi.tasks.config import ClientConfig
from qafel_mpi.tasks.neural import NeuralTask
from qafel_mpi.tasks.partition_config import PartitionConfig
from qafel_mpi.tasks.partitions import partition
from qafel_mpi.tasks.targets import Targets, loss

KINDS: list[Targets] = ["classes", "tokens", "labels", "values"]


def dataset(kind: Targets, n: int = 60) -> Dataset:
    """Learnable examples of 4 features, or of 4 tokens below 6; 3 outputs each."""
    generator = np.random.default_rng(0)
    if kind == "tokens":
        x = ((generator.integers(0, 3, (n, 1)) + np.arange(5)) % 3).astype(np.uint8)
        return Dataset(x[:, :-1], x[:, 1:], 3, x[:20, :-1], x[:20, 1:], targets="tokens", vocabulary=6)
    x = generator.standard_normal((n, 4)).astype(np.float32)
    scores = x @ generator.standard_normal((4, 3)).astype(np.float32)
    y = {"classes": scores.argmax(1), "labels": scores > 0, "values": scores}[kind]
    return Dataset(x, y, 3 if kind == "classes" else 0, x[:20], y[:20], targets=kind)


def model(kind: Targets) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3)) if kind == "tokens" else nn.Linear(4, 3)


def task(data: Dataset, make: Callable[[], nn.Module], **client: Any) -> NeuralTask:
    settings = {"local_steps": 60, "batch_size": 16, "learning_rate": 0.3, **client}
    return NeuralTask(
        make,
        data,
        partition(PartitionConfig(), data.y, 2, 0),
        ClientConfig.model_validate(settings),
        dtype=torch.float32,
        device=torch.device("cpu"),
        seed=0,
    )


def trained(one: NeuralTask) -> tuple[Evaluation, Evaluation]:
    start = one.initial(0)
    delta = torch.empty_like(start)
    one.train(0, start, delta, 1)
    return one.evaluate(start), one.evaluate(start + delta)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_target_is_learnt(kind: Targets) -> None:
    before, after = trained(task(dataset(kind), model(kind)))
    assert after.loss < 0.6 * before.loss
    if kind == "values":
        assert math.isnan(after.accuracy)
    else:
        assert after.accuracy > max(0.75, before.accuracy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_of_each_example_has_torchs_bits_and_gradients_alone_and_in_a_batch_of_clients(dtype):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 20, 7, generator=generator, dtype=dtype) * 30
    y = torch.randint(0, 7, (3, 20), generator=generator)
    for each in (loss_of, torch.vmap(loss_of)):
        shape = (60, 7) if each is loss_of else (3, 20, 7)
        ours, theirs = (outputs.reshape(shape).clone().requires_grad_() for _ in range(2))
        found = each(ours, y.reshape(shape[:-1]))
        wanted = cross_entropy(theirs.reshape(60, 7), y.flatten(), reduction="none")
        assert torch.equal(found.flatten(), wanted)
        weights = torch.rand(60, generator=generator, dtype=dtype)
        (found.flatten() * weights).sum().backward()
        (wanted * weights).sum().backward()
        assert torch.equal(ours.grad, theirs.grad)


def loss_of(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return loss("classes", outputs, y, "none")


def test_tokens_are_judged_one_by_one() -> None:
    data = dataset("tokens")
    one = task(data, model("tokens"))
    x, y = (torch.from_numpy(a[:20].astype(np.int64)) for a in (data.x, data.y))
    outputs = one.flat.module(x).detach()
    found = one.evaluate(one.flat.vector.clone())
    assert found.loss == pytest.approx(float(cross_entropy(outputs.reshape(-1, 3), y.reshape(-1))), rel=1e-6)
    assert found.accuracy == float((outputs.argmax(-1) == y).double().mean())
    assert (found.examples, found.answers) == (20, 4)


def test_labels_are_judged_one_by_one() -> None:
    data = dataset("labels")
    one = task(data, model("labels"))
    x, y = torch.from_numpy(data.x[:20]), torch.from_numpy(data.y[:20])
    outputs = one.flat.module(x).detach()
    found = one.evaluate(one.flat.vector.clone())
    assert found.loss == pytest.approx(float(binary_cross_entropy_with_logits(outputs, y.float())), rel=1e-6)
    assert found.accuracy == pytest.approx(float(((outputs > 0) == y).double().mean()), abs=1e-12)
    assert found.answers == 3


@pytest.mark.parametrize("kind", KINDS)
def test_clients_trained_together_learn_what_each_learns_alone(kind: Targets) -> None:
    one = task(dataset(kind), model(kind), together=16, local_steps=3)
    start = one.initial(0)
    clients, seeds = [0, 1] * 5, list(range(10))
    deltas = torch.empty(10, len(start))
    losses = one.train_together(clients, start, deltas, seeds)
    for i in range(10):
        alone = torch.empty_like(start)
        result = one.train(clients[i], start, alone, seeds[i])
        assert losses[i] == pytest.approx(result.loss, rel=1e-5)
        assert torch.allclose(deltas[i], alone, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_evaluation_in_parts_is_that_of_all_examples(kind: Targets, monkeypatch: Any) -> None:
    one = task(dataset(kind), model(kind))
    x = one.initial(0)
    whole = one.evaluate(x)
    monkeypatch.setattr("qafel_mpi.tasks.examples.EVALUATION_BATCH", {"cpu": 7})
    assert one.parts() == 3
    parts = one.evaluate(x)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.accuracy == pytest.approx(whole.accuracy, abs=0, nan_ok=True)
    assert (parts.examples, parts.answers) == (whole.examples, whole.answers)
    assert one.gradient_norm_squared(x) > 0


def test_a_large_vocabulary_is_evaluated_a_few_examples_at_a_time(monkeypatch: Any) -> None:
    one = task(dataset("tokens"), model("tokens"))
    monkeypatch.setattr("qafel_mpi.tasks.examples.EVALUATION_OUTPUTS", 2 * 4 * 3)
    assert one.parts() == 10


@pytest.mark.parametrize(
    ("x", "y", "settings", "message"),
    [
        ("floats", np.zeros((4, 2), np.int64), {"classes": 3}, "targets = 'labels' for several labels"),
        ("floats", np.zeros(4), {"classes": 3}, "'values' for regression"),
        ("floats", np.full((4, 2), 2), {"targets": "labels"}, "labels from 2 to 2; each is 0 or 1"),
        ("floats", np.zeros((4, 2, 2)), {"targets": "values"}, r"\(n, values\)"),
        ("floats", np.zeros((4, 2)), {"targets": "values", "classes": 3}, "2 values an example, 3 expected"),
        (
            "floats",
            np.zeros(4, np.int64),
            {"targets": "regression"},
            "one of classes, tokens, labels, values",
        ),
        ("tokens", np.zeros(4, np.int64), {"classes": 3}, "or tokens with vocabulary="),
        ("tokens", np.zeros(4, np.int64), {"classes": 3, "vocabulary": 9}, "tokens are int64 from 9 to 9"),
        ("floats", np.zeros(4, np.int64), {"classes": 3, "vocabulary": 9}, "tokens are float64"),
        ("tokens", np.zeros(4, np.int64), {"classes": 3, "vocabulary": 10, "targets": "tokens"}, "positions"),
    ],
)
def test_arrays_that_do_not_fit_the_targets_are_refused(
    x: str, y: np.ndarray, settings: dict[str, Any], message: str
) -> None:
    arrays = {"floats": np.zeros((4, 2)), "tokens": np.full((4, 2), 9)}
    with pytest.raises(DataError, match=message):
        Dataset(arrays[x], y, **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_number_of_outputs_is_refused(kind: Targets) -> None:
    layers = [nn.Embedding(6, 4)] if kind == "tokens" else []
    with pytest.raises(DataError, match=r"the model gives .*, 2\).* of shape .*, 3\)"):
        task(dataset(kind), lambda: nn.Sequential(*layers, nn.Linear(4, 2)))


@pytest.mark.parametrize("kind", ["tokens", "labels", "values"])
def test_partitions_by_class_need_classes(kind: Targets) -> None:
    dirichlet = PartitionConfig(kind="dirichlet", alpha=0.5)
    with pytest.raises(DataError, match="dirichlet: it deals examples by their class"):
        partition(dirichlet, dataset(kind).y, 2, 0)
