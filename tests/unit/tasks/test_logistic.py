"""Logistic regression: the algebra gives what plain gradient descent gives, and the paper's optimum."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from qafel_mpi.tasks import build
from qafel_mpi.tasks import logistic_kernels as kernels
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.logistic import LogisticTask

F_STAR = 0.014484174216922262  # of the authors' objective on mushrooms


def make(data_dir: Path | None = None, task: dict[str, Any] | None = None, **client: Any) -> LogisticTask:
    settings = {"dataset": "synthetic", "model": "logistic", "shape": [30], "classes": 2, "examples": 200}
    settings |= {"clients": 10, "dtype": "float64", "l2": 0.01, **(task or {})}
    work = {"learning_rate": 0.5, "local_steps": 10, "batch_size": "full", **client}
    made = build(
        TaskConfig.model_validate(settings), ClientConfig.model_validate(work), seed=0, data_dir=data_dir
    )
    assert isinstance(made, LogisticTask)
    return made


def start_of(task: LogisticTask) -> torch.Tensor:
    return 0.3 * torch.randn(
        task.layout.elements, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def plainly(
    task: LogisticTask, client: int, start: torch.Tensor, batches: list[np.ndarray]
) -> tuple[np.ndarray, float]:
    """(y_P − y_0, mean loss) by the formulas, with settings' momentum and weight decay."""
    rows = task._rows[task._offsets[client] : task._offsets[client + 1]]
    y, velocity, losses = start.numpy().astype(np.float64), 0.0, []
    for batch in batches:
        b = rows[batch]
        z = b @ y
        losses.append(np.logaddexp(0, -z).mean() + 0.5 * task.l2 * y @ y)
        gradient = (task.l2 + task.client.weight_decay) * y - b.T @ (1 / (1 + np.exp(z))) / len(b)
        velocity = task.client.momentum * velocity + gradient
        y = y - task.client.learning_rate * velocity
    return y - start.numpy(), float(np.mean(losses))


@pytest.mark.parametrize(
    ("task", "client"),
    [
        ({}, {}),
        ({"l2": 0.0}, {"local_steps": 1}),
        ({"clients": 1}, {}),  # 200 examples of 30 features: step by step
        ({"clients": 200}, {"weight_decay": 0.1}),  # one example each
        ({"partition": {"kind": "dirichlet", "alpha": 0.2}}, {"learning_rate": 5.0, "local_steps": 50}),
        ({}, {"momentum": 0.9, "weight_decay": 0.1}),
        ({"dtype": "float32"}, {}),
    ],
    ids=["in-span", "one-step", "many-examples", "one-example", "uneven", "momentum", "float32"],
)
def test_training_is_gradient_descent(task: dict[str, Any], client: dict[str, Any]) -> None:
    made = make(task=task, **client)
    start = start_of(made).to(made.dtype)
    delta = torch.empty_like(start)
    tolerance = 1e-12 if made.dtype == torch.float64 else 1e-6
    for c in range(0, made.clients, 7):
        result = made.train(c, start, delta, seed=3)
        n = made.examples(c)
        expected, loss = plainly(made, c, start, [np.arange(n)] * made.client.steps(n))
        np.testing.assert_allclose(delta.numpy(), expected, atol=tolerance * max(1, abs(expected).max()))
        assert result.loss == pytest.approx(loss, rel=1e-12)
        assert (result.examples, result.steps) == (n, made.client.steps(n))


def test_mini_batches_see_every_example_once_an_epoch() -> None:
    made = make(local_steps=None, local_epochs=1, batch_size=7)
    start = start_of(made)
    delta = torch.empty_like(start)
    polls: list[int] = []
    result = made.train(2, start, delta, 5, lambda: polls.append(1))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5)).numpy()
    expected, loss = plainly(made, 2, start, [order[:7], order[7:14], order[14:]])
    np.testing.assert_allclose(delta.numpy(), expected, atol=1e-14)
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert len(polls) == result.steps == 3


def test_dependent_and_empty_examples_span_fewer_dimensions() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 5))
    rows = np.concatenate([rows, 2 * rows[:1], np.zeros((1, 5)), rows[1:2] - 1e-3 * rows[2:]])
    basis, columns = np.zeros((5, 5)), np.zeros((5, 6))
    r = kernels.find_span(rows, basis, columns)
    assert r == 3
    np.testing.assert_allclose(columns[:r].T @ basis[:r], rows, atol=1e-14)
    np.testing.assert_allclose(basis[:r] @ basis[:r].T, np.eye(r), atol=1e-14)


def test_a_batch_of_clients_changes_no_bit() -> None:
    made = make(task={"partition": {"kind": "dirichlet", "alpha": 0.5}})
    start = start_of(made)
    clients = [3, 9, 0, 3, 7]
    deltas, alone = torch.empty(5, 30, dtype=torch.float64), torch.empty(30, dtype=torch.float64)
    losses = made.train_together(clients, start, deltas, range(5))
    for k, c in enumerate(clients):
        assert made.train(c, start, alone, k).loss == losses[k]
        assert torch.equal(alone, deltas[k])


@pytest.mark.parametrize("batch_size", ["full", 5])
def test_a_start_that_moves_on_while_a_client_trains_changes_nothing(batch_size: Any) -> None:
    """On the wall clock broadcasts are applied in poll: to the very vector that the training starts from."""
    task = make(batch_size=batch_size)
    start, still, moving = start_of(task), *torch.empty(2, task.layout.elements, dtype=task.dtype)
    moved = start.clone()
    task.train(1, start, still, seed=3)

    def poll() -> None:
        moved.add_(1.0)

    task.train(1, moved, moving, seed=3, poll=poll)
    assert torch.equal(still, moving)
    assert not torch.equal(start, moved)


def test_a_batch_with_a_large_client_is_trained_too() -> None:
    made = make(task={"clients": 3, "partition": {"kind": "dirichlet", "alpha": 0.05}})
    assert set(made._in_span.tolist()) == {True, False}
    start, deltas = start_of(made), torch.empty(3, 30, dtype=torch.float64)
    made.train_together(range(3), start, deltas, range(3))
    for c in range(3):
        expected, _ = plainly(made, c, start, [np.arange(made.examples(c))] * 10)
        np.testing.assert_allclose(deltas[c].numpy(), expected, atol=1e-12)


def test_evaluation_and_gradient_are_those_of_the_whole_objective() -> None:
    made = make(task={"l2": "1/n"})
    assert made.l2 == 1 / 200
    x = start_of(made)
    z = made._rows @ x.numpy()
    gradient = x.numpy() / 200 - made._rows.T @ (1 / (1 + np.exp(z))) / 200
    assert made.gradient_norm_squared(x) == pytest.approx(float(gradient @ gradient), rel=1e-12)
    assert not made.initial(0).any()
    assert made.evaluate(made.initial(0)).examples == 50


@given(st.lists(st.floats(-1e308, 1e308), min_size=1, max_size=40))
def test_the_exponential_is_exact_to_two_units_in_the_last_place(values: list[float]) -> None:
    z = np.array(values)
    out = np.empty_like(z)
    kernels.exp_minus_abs(z, out, np.empty_like(z))
    np.testing.assert_allclose(out, np.exp(-np.minimum(abs(z), 700)), rtol=5e-16)


def test_margins_beyond_any_exponent_stay_finite() -> None:
    made = make(learning_rate=1e6)
    start = 1e5 * start_of(made)
    delta = torch.empty_like(start)
    result = made.train(0, start, delta, 0)
    assert torch.isfinite(delta).all()
    assert np.isfinite(result.loss)


def test_mushrooms_have_the_authors_optimum() -> None:
    folder = os.environ.get("QAFEL_DATA_DIR")
    if not folder or not (Path(folder) / "mushrooms.libsvm").exists():
        pytest.skip("needs mushrooms.libsvm in QAFEL_DATA_DIR")
    paper = {
        "dataset": "mushrooms",
        "shape": None,
        "examples": None,
        "clients": 100,
        "partition": {"kind": "contiguous"},
        "l2": "1/n",
    }
    made = make(Path(folder), paper, learning_rate=2.0)
    assert made.layout.elements == 113
    assert {made.examples(c) for c in range(100)} == {81, 82}

    def f(x: np.ndarray) -> tuple[float, np.ndarray]:
        gradient, (z, e, s) = np.empty_like(x), np.empty((3, 8124))
        return kernels.gradient(made._rows, x, made.l2, gradient, z, e, s), gradient

    found = minimize(
        f, np.zeros(113), jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    )
    optimum = made.evaluate(torch.from_numpy(found.x))
    assert optimum.loss == pytest.approx(F_STAR, abs=1e-11)
    assert optimum.accuracy > 0.999
    assert optimum.examples == 8124
    assert made.gradient_norm_squared(torch.from_numpy(found.x)) < 1e-12
    start = torch.zeros(113, dtype=torch.float64)
    delta = torch.empty_like(start)
    made.train(99, start, delta, 0)
    expected, _ = plainly(made, 99, start, [np.arange(made.examples(99))] * 10)
    np.testing.assert_allclose(delta.numpy(), expected, atol=1e-12)
