"""A linear layer by oneDNN is torch's: outputs, gradients, clients trained together, and what it leaves to torch."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from qafel_mpi.tasks.models.linear import Linear, linear


@pytest.mark.parametrize("shape", [(1, 5), (40, 96), (3, 64, 48)])
@pytest.mark.parametrize("biased", [True, False])
def test_outputs_and_gradients_are_those_of_torchs_layer(shape: tuple[int, ...], biased: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(33, shape[-1], requires_grad=True)
    bias = torch.randn(33, requires_grad=True) if biased else None
    inputs = (x, weight, bias) if bias is not None else (x, weight)
    ours, theirs = linear(x, weight, bias), functional.linear(x, weight, bias)
    pull = torch.randn_like(theirs)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad(ours, inputs, pull)
    for mine, other in zip(found, torch.autograd.grad(theirs, inputs, pull), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_frozen_weights_are_given_no_gradient_and_pass_it_on() -> None:
    layer, x = Linear(8, 4), torch.randn(2, 8, requires_grad=True)
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, -1))


def test_clients_trained_as_one_batch_have_weights_of_their_own() -> None:
    x, weights, bias = torch.randn(3, 5, 8), torch.randn(3, 4, 8, requires_grad=True), torch.zeros(3, 4)
    out = torch.vmap(linear)(x, weights, bias)
    torch.testing.assert_close(out, torch.stack([linear(*one) for one in zip(x, weights, bias, strict=True)]))
    (by_weights,) = torch.autograd.grad(out.sum(), weights)
    torch.testing.assert_close(by_weights, x.sum(1)[:, None].expand_as(by_weights))


def test_other_types_are_left_to_torch() -> None:
    x, weight = torch.randn(5, 8, dtype=torch.float64), torch.randn(4, 8, dtype=torch.float64)
    assert torch.equal(linear(x, weight), functional.linear(x, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x.float(), weight.float()).dtype == torch.bfloat16
