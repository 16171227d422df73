"""A linear layer by oneDNN on the CPU.

torch gives products of float32 matrices to MKL, whose vectors have half the width on an AMD EPYC: oneDNN takes half
of its time for a transformer's products. torch has oneDNN's only under a name that its compiler uses; without it, and
for all that it does not take, torch's own layer serves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · weightᵀ + bias, as torch.nn.functional.linear. x: (n, ..., inputs); weight: (outputs, inputs)."""
    fits = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not (_AVAILABLE and fits):
        return functional.linear(x, weight, bias)
    out: Tensor = _Product.apply(x, weight, bias)
    return out


class Linear(nn.Linear):
    """torch's layer, with `linear` as its product."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x.flatten(0, -2), weight, bias).view(*x.shape[:-1], len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias = inputs
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, pulls = x.flatten(0, -2), pull.flatten(0, -2)
        by_x, by_weight, by_bias = ctx.needs_input_grad
        return (
            _product(pulls, weight.t()).view_as(x) if by_x else None,
            _product(pulls.t(), rows.t()) if by_weight else None,
            pulls.sum(0) if by_bias and ctx.biased else None,
        )

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Clients that are trained as one batch: torch's product of many matrices."""
        return torch.vmap(functional.linear, in_dims)(*inputs), 0


def _product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a · bᵀ + bias."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return made
