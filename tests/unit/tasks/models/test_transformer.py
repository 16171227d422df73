"""The transformer: GPT-2's number of parameters, causal attention, tied embeddings, and training on tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qafel_mpi.tasks import DataError, Dataset
from qafel_mpi.tasks.config import ClientConfig, TaskConfig
from qafel_mpi.tasks.models.transformer import Transformer, transformer
from qafel_mpi.tasks.neural import NeuralTask
from qafel_mpi.tasks.partition_config import PartitionConfig
from qafel_mpi.tasks.partitions import partition
from qafel_mpi.tasks.targets import Signature

SMALL = {"depth": 2, "width": 16, "heads": 2}


def made(signature: Signature, **settings: Any) -> torch.nn.Module:
    return transformer(TaskConfig.model_validate({"model": "transformer", **SMALL, **settings}), signature)


def text(n: int, positions: int) -> Dataset:
    """A period of 5 tokens, from any of its places on."""
    tokens = (np.arange(n)[:, None] * 7 + np.arange(positions + 1)) % 5
    x, y = tokens[:, :-1].astype(np.uint8), tokens[:, 1:].astype(np.uint8)
    return Dataset(x, y, 5, targets="tokens", vocabulary=5)


def test_with_gpt2s_sizes_it_has_the_parameters_of_gpt2() -> None:
    with torch.device("meta"):
        module = Transformer(50257, 1024, 50257, depth=12, width=768, heads=12)
    assert sum(p.numel() for p in module.parameters()) == 124_439_808


def test_logits_are_products_with_the_token_embeddings() -> None:
    module = made(Signature((8,), 11, 11, "tokens"))
    assert isinstance(module, Transformer)
    tokens = torch.randint(0, 11, (3, 8))
    assert module(tokens).shape == (3, 8, 11)
    tokens = tokens.clamp(max=9)  # token 10 occurs in no text, and its logit doubles with its embedding
    before = module(tokens)
    module.wte.weight.data[10] *= 2
    after = module(tokens)
    assert torch.allclose(after[..., 10], 2 * before[..., 10])
    assert torch.equal(after[..., :10], before[..., :10])


def test_a_position_sees_itself_and_those_before_it() -> None:
    module = made(Signature((8,), 11, 11, "tokens"))
    tokens = torch.randint(0, 11, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (tokens[0, 5] + 1) % 11
    before, after = module(tokens), module(changed)
    assert torch.equal(before[0, :5], after[0, :5])
    assert not torch.isclose(before[0, 5:], after[0, 5:]).all(dim=1).any()


def test_one_class_a_text_is_said_at_the_last_position_by_a_layer_of_its_own() -> None:
    module = made(Signature((8,), 2, 256, "classes"))
    tokens = torch.randint(0, 256, (3, 8))
    before = module(tokens)
    assert before.shape == (3, 2)
    tokens[:, 0] += 1
    assert not torch.equal(module(tokens % 256), before)


def test_the_next_character_of_a_text_is_said_with_tied_embeddings() -> None:
    module = made(Signature((8,), 256, 256, "classes"))
    assert module(torch.randint(0, 256, (3, 8))).shape == (3, 256)
    assert not any("head" in name for name, _ in module.named_parameters())


def test_dropout_is_drawn_in_training_alone() -> None:
    module = made(Signature((8,), 11, 11, "tokens"), dropout=0.5)
    tokens = torch.randint(0, 11, (2, 8))
    assert not torch.equal(module(tokens), module(tokens))
    module.eval()
    assert torch.equal(module(tokens), module(tokens))


def task(data: Dataset, **client: Any) -> NeuralTask:
    settings = {"learning_rate": 0.5, "local_steps": 30, "batch_size": 8, **client}
    return NeuralTask(
        lambda: made(data.signature),
        data,
        partition(PartitionConfig(), data.y, 2, 0),
        ClientConfig.model_validate(settings),
        dtype=torch.float32,
        device=torch.device("cpu"),
        seed=0,
    )


def test_it_learns_a_periodic_text() -> None:
    one = task(text(40, 10))
    start = one.initial(0)
    delta, again = torch.empty_like(start), torch.empty_like(start)
    one.train(0, start, delta, 0)
    before, after = one.evaluate(start), one.evaluate(start + delta)
    assert before.loss == pytest.approx(np.log(5), rel=0.1)
    assert after.loss < 0.5 * before.loss
    assert after.accuracy > 0.8
    one.train(0, start, again, 0)
    assert torch.equal(delta, again)


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_clients_trained_together_learn_what_each_learns_alone() -> None:
    one = task(text(20, 6), local_steps=2, together=8)
    start = one.initial(0)
    deltas = torch.empty(8, len(start))
    one.train_together([0, 1] * 4, start, deltas, list(range(8)))
    for i, client in enumerate([0, 1] * 4):
        alone = torch.empty_like(start)
        one.train(client, start, alone, i)
        assert torch.allclose(deltas[i], alone, atol=1e-5)


@pytest.mark.parametrize(
    ("signature", "settings", "message"),
    [
        (Signature((64,), 10), {}, r"sequences of tokens.*\(64,\) numbers.*vectors:gpt2"),
        (Signature((4, 4), 10, 10), {}, "sequences of tokens"),
        (Signature((8,), 11, 11), {"context": 16}, "task.context = 16, but .* have 8 tokens"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    signature: Signature, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        made(signature, **settings)


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="width = 16 is no multiple of heads = 3"):
        TaskConfig(model="transformer", width=16, heads=3)
