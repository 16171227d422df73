"""Local optimizers are torch's, alone and in batches of clients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from qafel_mpi.tasks.config import ClientConfig, RateScheduleConfig
from tests.unit.tasks.own_models import delta_of, linear, task_of

ADAMW: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 0.02, "weight_decay": 0.1}


@pytest.mark.parametrize(
    ("client", "make"),
    [
        (ADAMW, lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1)),
        (
            ADAMW | {"betas": (0.8, 0.9), "epsilon": 1e-3},
            lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1, betas=(0.8, 0.9), eps=1e-3),
        ),
        ({"learning_rate": 0.2, "momentum": 0.5}, lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.5)),
    ],
)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_an_optimizer_is_torchs(client: dict[str, Any], make: Any, clip: float | None) -> None:
    task = task_of(linear, local_steps=6, clip_norm=clip, **client)
    start = task.initial(0)
    reference = nn.Linear(6, 3)
    reference.load_state_dict(task._fresh(0).module.state_dict())
    optimizer, norms = make(reference.parameters()), []
    for batch in task._batches(1, 7):
        optimizer.zero_grad()
        x, y = task.data.taken(batch)
        cross_entropy(reference(x), y).backward()
        if clip is not None:
            norms.append(float(nn.utils.clip_grad_norm_(reference.parameters(), clip)))
        optimizer.step()
    assert clip is None or max(norms) > clip, "some are clipped"
    expected = torch.cat([p.detach().flatten() for p in reference.parameters()]) - start
    torch.testing.assert_close(delta_of(task, 1, start, 7), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_clients_together_learn_what_each_learns_alone(clip: float | None) -> None:
    sizes = (9, 3, 14, 5, 8, 8, 2, 11, 7, 6)
    task = task_of(
        linear,
        sizes=sizes,
        together=16,
        local_steps=None,
        local_epochs=2,
        batch_size=4,
        clip_norm=clip,
        **ADAMW,
    )
    assert task.together == 16
    start, deltas = task.initial(0), torch.empty(10, task.layout.elements)
    task.train_together(range(10), start, deltas, range(10))
    for client in range(10):
        torch.testing.assert_close(
            deltas[client], delta_of(task, client, start, client), rtol=1e-3, atol=1e-5
        )


def test_the_learning_rate_follows_the_servers_steps() -> None:
    schedule = {"kind": "cosine", "warmup": 2, "steps": 12, "final": 0.1}
    task = task_of(linear, local_steps=1, batch_size="full", learning_rate=0.1, schedule=schedule)
    start = task.initial(0)

    def length(version: int) -> float:
        delta = torch.empty_like(start)
        task.train(0, start, delta, 1, version=version)
        return float(delta.norm())

    full = length(2)
    assert [round(length(version) / full, 4) for version in (0, 1, 2, 7, 12, 99)] == [
        0.5,
        1,
        1,
        0.55,
        0.1,
        0.1,
    ]


def test_a_schedule_without_an_end_is_refused() -> None:
    for settings in ({"kind": "linear"}, {"kind": "linear", "steps": 3, "warmup": 3}, {"steps": 3}):
        with pytest.raises(ValueError, match="steps"):
            RateScheduleConfig.model_validate(settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer": "adamw", "momentum": 0.5}, "momentum has no effect with optimizer = 'adamw'"),
        ({"betas": (0.5, 0.5)}, "betas has no effect with optimizer = 'sgd'"),
        ({"optimizer": "adamw", "betas": (0.5, 1.0)}, "each is at least 0 and below 1"),
        ({"trainable": "("}, "is no regular expression"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClientConfig.model_validate(settings)


def test_autocast_computes_in_bfloat16_and_keeps_the_vector() -> None:
    seen: list[torch.dtype] = []

    class Looks(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            seen.append(out.dtype)
            return out

    task = task_of(lambda: Looks(6, 3), autocast="bfloat16")
    seen.clear()
    delta = delta_of(task)
    assert set(seen) == {torch.bfloat16}
    assert (delta.dtype, bool(delta.any())) == (torch.float32, True)
