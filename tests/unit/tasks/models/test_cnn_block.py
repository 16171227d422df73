"""The CNN's block by our kernels is that of torch's layers: its outputs, gradients, and clients trained together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qafel_mpi.tasks.models.cnn import CNN
from qafel_mpi.tasks.models.cnn_block import block, layers


def parts(channels: int, dtype: torch.dtype) -> tuple[nn.Conv2d, nn.GroupNorm]:
    """With gains of both signs and zero: the largest input need not become the largest output."""
    torch.manual_seed(channels)
    convolution, norm = nn.Conv2d(channels, 32, 3, padding=2).to(dtype), nn.GroupNorm(32, 32).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 1, 32).index_fill_(0, torch.tensor([5]), 0.0))
        norm.bias.copy_(torch.randn(32))
    return convolution, norm


def by_layers(convolution: nn.Conv2d, norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return layers(x, convolution.weight, convolution.bias, norm.weight, norm.bias, norm.eps)  # type: ignore[arg-type]


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (32, 9), (32, 5)])
def test_outputs_and_gradients_are_those_of_autograd_through_torchs_layers(channels: int, side: int) -> None:
    convolution, norm = parts(channels, torch.float64)
    x = torch.randn(3, channels, side, side, dtype=torch.float64, requires_grad=True)
    inputs = (x, convolution.weight, norm.weight, norm.bias)
    ours, theirs = block(convolution, norm, x), by_layers(convolution, norm, x)
    pull = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
    for mine, other in zip(
        torch.autograd.grad(ours, inputs, pull), torch.autograd.grad(theirs, inputs, pull), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-11)


def test_a_bias_that_the_norm_takes_away_has_a_gradient_of_zero_and_changes_no_bit() -> None:
    convolution, norm = parts(3, torch.float32)
    x = torch.randn(2, 3, 32, 32)
    before = block(convolution, norm, x)
    before.square().sum().backward()
    assert not convolution.bias.grad.any()  # type: ignore[union-attr]
    convolution.bias.data += 1  # type: ignore[union-attr]
    assert torch.equal(block(convolution, norm, x), before)
    torch.testing.assert_close(by_layers(convolution, norm, x), before, rtol=1e-4, atol=1e-5)


def test_images_have_the_same_bits_in_any_order_of_memory() -> None:
    convolution, norm = parts(3, torch.float32)
    x = torch.randn(4, 3, 32, 32)
    other_way = x.to(memory_format=torch.channels_last)
    assert torch.equal(block(convolution, norm, x), block(convolution, norm, other_way))


def test_what_is_no_number_comes_out_as_none() -> None:
    convolution, norm = parts(3, torch.float32)
    x = torch.randn(2, 3, 32, 32)
    x[1, 0, 5, 5] = torch.nan
    out = block(convolution, norm, x)
    assert torch.isfinite(out[0]).all()
    assert torch.isnan(out[1]).all()


def test_clients_trained_as_one_batch_get_the_gradients_that_each_gets_alone() -> None:
    torch.manual_seed(0)
    model = CNN(1, 3, dropout=0.0)
    x = torch.randn(2, 4, 1, 28, 28)
    weights = {
        name: torch.stack([p, p + 0.01]).detach().requires_grad_() for name, p in model.named_parameters()
    }

    def loss(weights: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, weights, (x,)).square().mean()

    both = torch.autograd.grad(torch.vmap(loss)(weights, x).sum(), list(weights.values()))
    for client in range(2):
        alone = {name: w[client].detach().requires_grad_() for name, w in weights.items()}
        own = torch.autograd.grad(loss(alone, x[client]), list(alone.values()))
        for mine, other in zip(own, both, strict=True):
            torch.testing.assert_close(mine, other[client], rtol=1e-3, atol=1e-5)


def test_half_precision_takes_torchs_layers() -> None:
    convolution, norm = parts(3, torch.float32)
    x = torch.randn(2, 3, 32, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block(convolution, norm, x), by_layers(convolution, norm, x))
