"""Tasks: local training is plain SGD, a function of start and seed, and the same in batches of clients."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from qafel_mpi.tasks import DataError, Evaluation, Task, build, own
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.neural import NeuralTask
from tests import pretended_gpu

CPU = torch.device("cpu")


def make(client: dict[str, Any] | None = None, *, seed: int = 0, **task: Any) -> Task:
    settings = {
        "dataset": "synthetic",
        "examples": 300,
        "clients": 10,
        "shape": [6],
        "classes": 3,
        "hidden": 7,
    }
    settings |= {"partition": {"kind": "dirichlet", "alpha": 0.5}, **task}
    return build(
        TaskConfig.model_validate(settings),
        ClientConfig.model_validate(client or {"local_epochs": 2, "batch_size": 8}),
        seed=seed,
        device=CPU,
        data_dir=None,
    )


def delta_of(task: Task, client: int, start: torch.Tensor, seed: int) -> torch.Tensor:
    delta = torch.empty_like(start)
    task.train(client, start, delta, seed)
    return delta


# --- training -----------------------------------------------------------------------------------------


def test_training_is_torchs_sgd_on_the_clients_batches() -> None:
    task = make(
        {"local_steps": 5, "batch_size": 8, "momentum": 0.5, "weight_decay": 0.1, "learning_rate": 0.2}
    )
    assert isinstance(task, NeuralTask)
    start, delta = task.initial(0), torch.empty(task.layout.elements)
    result = task.train(3, start, delta, seed=11)

    module = task._fresh(0).module
    reference = nn.Sequential(nn.Flatten(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3))
    reference.load_state_dict(module.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.2, momentum=0.5, weight_decay=0.1)
    losses = []
    for batch in task._batches(3, 11):
        optimizer.zero_grad()
        loss = cross_entropy(reference(task.data.x[batch]), task.data.y[batch])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    expected = torch.cat([p.detach().flatten() for p in reference.parameters()]) - start
    torch.testing.assert_close(delta, expected)
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-5)
    assert (result.steps, result.examples) == (5, task.examples(3))


def test_an_epoch_sees_every_example_of_the_client_once() -> None:
    task = make({"local_epochs": 2, "batch_size": 8})
    assert isinstance(task, NeuralTask)
    for client in range(10):
        n = task.examples(client)
        seen = torch.cat(list(task._batches(client, 5)))
        mine = task.partition.indices(client).tolist()
        assert sorted(seen[:n].tolist()) == sorted(mine)
        assert sorted(seen[n:].tolist()) == sorted(mine)


def test_training_is_a_function_of_start_and_seed_alone() -> None:
    task, again = (
        make(dropout=0.5, model="cnn", shape=[3, 32, 32]),
        make(dropout=0.5, model="cnn", shape=[3, 32, 32]),
    )
    start = task.initial(0)
    delta = delta_of(task, 1, start, 5)
    task.evaluate(start)
    torch.rand(3)
    delta_of(task, 2, start, 6)
    assert torch.equal(delta_of(task, 1, start, 5), delta)
    assert torch.equal(delta_of(again, 1, start, 5), delta)
    assert not torch.equal(delta_of(task, 1, start, 7), delta)


def test_torchs_own_random_numbers_are_left_as_they_were() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    task = make(dropout=0.5, model="cnn", shape=[3, 32, 32])
    start = task.initial(3)
    delta_of(task, 1, start, 5)
    task.evaluate(start)
    task.gradient_norm_squared(start)
    assert torch.equal(torch.rand(3), expected)


def test_the_start_may_move_while_the_client_trains() -> None:
    task = make({"local_steps": 4, "batch_size": 8})
    start = task.initial(0)
    expected, moving, delta = delta_of(task, 0, start, 1), start.clone(), torch.empty_like(start)
    polls = []

    def poll() -> None:
        polls.append(1)
        moving.add_(1.0)

    task.train(0, moving, delta, 1, poll)
    assert torch.equal(delta, expected)
    assert len(polls) == 4


@pytest.mark.parametrize(
    ("model", "client"), [("mlp", {"optimizer": "adamw"}), ("vectors:resnet18", {})], ids=["mlp", "vectors"]
)
def test_a_gpu_that_is_behind_is_polled_beside_and_not_waited_for(
    model: str, client: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretended_gpu.pretend(monkeypatch)
    task = make({"local_steps": 1, "batch_size": 8, **client}, model=model)
    start, polls = task.initial(0), []
    delta = torch.empty_like(start).as_subclass(pretended_gpu.OnGpu)
    task.train(0, start, delta, 1, lambda: polls.append(1))
    assert len(polls) == 1 + pretended_gpu.Event.late
    assert torch.equal(delta.cpu(), delta_of(task, 0, start, 1))


@pytest.mark.parametrize("model", ["mlp", "logistic"])
def test_what_a_poll_raises_ends_the_training_and_the_task_stays_good(model: str) -> None:
    task = make({"local_steps": 4, "batch_size": 8}, model=model, classes=2)
    start = task.initial(0)
    expected = delta_of(task, 0, start, 1)

    class Abandon(Exception):
        pass

    def poll() -> None:
        raise Abandon

    with pytest.raises(Abandon):
        task.train(0, start, torch.empty_like(start), 1, poll)
    assert torch.equal(delta_of(task, 0, start, 1), expected)


def test_initial_is_the_models_own_initialisation_from_the_seed() -> None:
    task = make()
    assert torch.equal(task.initial(4), task.initial(4))
    assert not torch.equal(task.initial(4), task.initial(5))
    assert torch.equal(make(seed=9).initial(4), task.initial(4))


@pytest.mark.parametrize(
    "settings",
    [
        {"dataset": "digits", "shape": None, "classes": None, "hidden": 32},
        {"shape": [6], "classes": 3},
        {"model": "cnn", "shape": [3, 32, 32], "classes": 4},
        {"model": "logistic", "shape": [20], "classes": 2},
    ],
    ids=["digits", "mlp", "cnn", "logistic"],
)
def test_averaging_what_clients_learn_raises_the_accuracy(settings: dict[str, Any]) -> None:
    client: dict[str, Any] = {"learning_rate": 0.1, "local_epochs": 1, "batch_size": 8}
    task = make(client, partition={"kind": "iid"}, **settings)
    x = task.initial(0)
    before = task.evaluate(x)
    for round_ in range(5):
        x += torch.stack([delta_of(task, c, x, 10 * round_ + c) for c in range(10)]).mean(dim=0)
    after = task.evaluate(x)
    assert after.accuracy > 0.75 > before.accuracy
    assert after.loss < before.loss
    assert after.examples == before.examples > 0


# --- together -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "client",
    [
        {"local_epochs": 2, "batch_size": 8},
        {"local_steps": 3, "batch_size": "full"},
        {"local_epochs": 1, "batch_size": 8, "momentum": 0.9, "weight_decay": 0.1},
    ],
)
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_clients_of_different_sizes_trained_together_learn_what_each_learns_alone(
    client: dict[str, Any], model: str
) -> None:
    shape = [6] if model == "mlp" else [1, 32, 32]
    # In float32 a rounding error may choose another pixel of a pool's window, and with it another gradient.
    task = make({**client, "together": 16}, model=model, shape=shape, examples=120, dtype="float64")
    assert task.together == 16
    sizes = [task.examples(c) for c in range(10)]
    assert len(set(sizes)) > 4
    start, seeds = task.initial(0), list(range(100, 110))
    deltas = torch.empty(10, task.layout.elements, dtype=torch.float64)
    losses = task.train_together(range(10), start, deltas, seeds)
    for c in range(10):
        alone = torch.empty_like(start)
        result = task.train(c, start, alone, seeds[c])
        torch.testing.assert_close(deltas[c], alone, rtol=1e-8, atol=1e-12)
        assert losses[c] == pytest.approx(result.loss, rel=1e-4)


def test_together_gives_the_same_bits_every_time() -> None:
    deltas = []
    for _ in range(2):
        task = make()
        assert task.together > 1
        deltas.append(torch.empty(10, task.layout.elements))
        task.train_together(range(10), task.initial(0), deltas[-1], range(10))
    assert torch.equal(deltas[0], deltas[1])


def test_models_that_can_not_be_batched_say_why() -> None:
    assert make(model="cnn", shape=[3, 32, 32]).together == 1
    task = make({"together": 4}, model="cnn", shape=[3, 32, 32], dropout=0.1)
    assert task.together == 1
    assert "client.together = 4: clients are trained one at a time, for the model's dropout" in task.notes[0]


# --- buffers, the user's own --------------------------------------------------------------------------


def with_batch_norm(config: TaskConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def test_running_statistics_are_part_of_the_vector_and_are_learnt() -> None:
    task = make({"local_steps": 3, "batch_size": 8, "weight_decay": 0.1}, model=f"{__name__}:with_batch_norm")
    where = {
        name: slice(a, b)
        for name, a, b in zip(task.layout.names, task.layout.offsets, task.layout.offsets[1:], strict=False)
    }
    start = task.initial(0)
    assert (start[where["1.running_var"]] == 1).all()
    delta = delta_of(task, 0, start, 1)
    assert delta[where["1.running_mean"]].all()
    assert not any("num_batches" in name for name in task.layout.names)
    before = task.evaluate(start)
    for round_ in range(8):
        start += torch.stack([delta_of(task, c, start, 10 * round_ + c) for c in range(10)]).mean(dim=0)
    vector = start.clone()
    after = task.evaluate(start)
    assert torch.equal(start, vector)
    assert after.accuracy > max(0.7, before.accuracy)


def test_the_documented_example_of_ones_own_data_and_model_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, settings = re.findall(r"```(?:python|toml)\n(.*?)```", own.__doc__ or "", flags=re.DOTALL)
    (tmp_path / "mine.py").write_text(code)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    tables = tomllib.loads(settings)
    task = build(
        TaskConfig.model_validate(tables["task"]), ClientConfig.model_validate(tables["client"]), seed=0
    )
    x = task.initial(0)
    for round_ in range(40):
        x += torch.stack([delta_of(task, c, x, 10 * round_ + c) for c in range(10)]).mean(dim=0)
    assert task.evaluate(x).accuracy > 0.95
    sys.modules.pop("mine")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "nowhere:f"}, r"task.model = 'nowhere:f': No module named 'nowhere'"),
        ({"dataset": "math:nothing"}, r"task.dataset = 'math:nothing': .*no attribute 'nothing'"),
        ({"dataset": "math:pi"}, "this is a float, not a function or a class"),
        (
            {"model": f"{__name__}:too_few_logits"},
            r"gives \(2, 2\) in evaluation for 2 examples of 3 classes",
        ),
        (
            {"model": f"{__name__}:of_other_shape"},
            r"layer .* can't take a batch of \(2, 6\)|the model can't take a batch of \(2, 6\)",
        ),
        ({"model": "logistic"}, "separates 2 classes, this data set has 3"),
        ({"model": "vectors:resnet18", "dataset": "digits"}, "set dataset = 'synthetic'"),
        ({"clients": 301}, "301 clients and 300 training examples"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_reason(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(**settings)


def too_few_logits(config: TaskConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(shape[0], classes - 1)


def of_other_shape(config: TaskConfig, shape: tuple[int, ...], classes: int) -> nn.Module:
    return nn.Linear(shape[0] + 1, classes)


# --- evaluation, gradient -----------------------------------------------------------------------------


def test_evaluation_on_a_part_is_that_of_its_first_examples() -> None:
    task = make(examples=4000)
    assert isinstance(task, NeuralTask)
    x = task.initial(0)
    few = task.evaluate(x, 300)
    task.flat.load(x)
    logits = task.flat.module.eval()(task.data.test_x[:300])
    assert few.examples == 300
    assert few.loss == pytest.approx(cross_entropy(logits, task.data.test_y[:300]).item(), rel=1e-5)
    assert few.accuracy == float((logits.argmax(1) == task.data.test_y[:300]).double().mean())
    assert task.evaluate(x, 10**6).examples == 1000


def test_the_gradient_norm_is_that_of_the_mean_loss_over_all_training_examples() -> None:
    task = make(examples=700, dtype="float64")
    assert isinstance(task, NeuralTask)
    x = task.initial(0)
    task.flat.load(x)
    loss = cross_entropy(task.flat.module.eval()(task.data.x), task.data.y)
    gradients = torch.autograd.grad(loss, list(task.flat.module.parameters()))
    expected = sum(float(g.square().sum()) for g in gradients)
    assert task.gradient_norm_squared(x) == pytest.approx(expected, rel=1e-9)


# --- parameter vectors --------------------------------------------------------------------------------


def test_a_parameter_vector_pulls_towards_its_mean() -> None:
    task = make({"local_steps": 2, "learning_rate": 0.25}, model="vectors:resnet18")
    start, delta = task.initial(0), torch.empty(task.layout.elements)
    before, polls = task.evaluate(start), []
    deltas = torch.zeros_like(start)
    for client in range(10):
        task.train(client, start, delta, 0, lambda: polls.append(1))
        deltas += delta / 10
    after = task.evaluate(start + deltas)
    assert np.isnan(after.accuracy)
    assert after.loss == pytest.approx(before.loss * 0.75**4, rel=1e-3)
    assert task.gradient_norm_squared(start) == pytest.approx(2 * before.loss * start.numel(), rel=1e-6)
    assert len(polls) == 20


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (ClientConfig, {"local_steps": 1, "local_epochs": 1}, "local_epochs or local_steps, not both"),
        (ClientConfig, {"batch_size": 0}, "at least 1, or 'full'"),
        (ClientConfig, {"together": 0}, "at least 1, or 'auto'"),
        (ClientConfig, {"learning_rate": 0}, "greater than 0"),
        (ClientConfig, {"learning_rates": 1}, "Extra inputs"),
        (TaskConfig, {"dataset": "mnist"}, "'mnist' is none of digits, mushrooms"),
        (TaskConfig, {"model": "vgg"}, "'vgg' is none of logistic, mlp"),
        (TaskConfig, {"l2": -1}, "from 0 to 1e.30, or '1/n'"),
        (TaskConfig, {"clients": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_out_of_range_are_refused(
    config: type[TaskConfig] | type[ClientConfig], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "examples", "steps"),
    [
        ({"local_epochs": 2, "batch_size": 10}, 25, 6),
        ({"local_epochs": 2, "batch_size": 100}, 25, 2),
        ({"local_steps": 7, "batch_size": 10}, 25, 7),
        ({"local_epochs": 3, "batch_size": "full"}, 25, 3),
        ({"batch_size": 5}, 25, 5),
    ],
)
def test_the_number_of_local_steps(settings: dict[str, Any], examples: int, steps: int) -> None:
    assert ClientConfig.model_validate(settings).steps(examples) == steps


def test_an_evaluation_in_parts_is_the_evaluation():
    """Ranks that share the work get the bits of one that does it all; the count of right answers is exact."""
    made = make(model="cnn", shape=[1, 28, 28], examples=3000)
    x = made.initial(0)
    assert made.parts(250) == 3
    parts = [made.evaluate_part(x, part, 250) for part in range(3)]
    assert [part.examples for part in parts] == [100, 100, 50]
    assert made.evaluate(x, 250) == Evaluation.combined(parts)
    parts = [Evaluation(0.5, k / 99, 99) for k in (33, 66, 71)]
    assert Evaluation.combined(parts).accuracy == 170 / 297
    assert make(examples=3000).parts(250) == 1, "a small model is evaluated in larger batches"
