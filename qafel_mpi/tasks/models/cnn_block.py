"""A block of the paper's CNN: conv 3×3, GroupNorm of one channel a group, ReLU, max-pool 2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import conv2d, group_norm, pad

from qafel_mpi.tasks.models import cnn_kernels as kernels

PADDING = 2
_BESIDES = ([1, 1], False, [0, 0], 1)  # behind the padding: dilation, not transposed, groups


def block(convolution: nn.Conv2d, norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """(n, channels, h, w) -> (n, 32, (h + 2) // 2, (w + 2) // 2): by our kernels on a CPU, else by torch's layers."""
    assert convolution.bias is not None
    weights = (convolution.weight, convolution.bias, norm.weight, norm.bias)
    if x.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        out: Tensor = _Fused.apply(x, *weights, norm.eps)[0]
        return out
    return layers(x, *weights, norm.eps)


def layers(x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, offset: Tensor, epsilon: float) -> Tensor:
    """The block as torch's layers have it."""
    made = conv2d(x, weight, bias, padding=PADDING)
    return torch.max_pool2d(torch.relu(group_norm(made, kernels.CHANNELS, gain, offset, epsilon)), 2)


class _Fused(torch.autograd.Function):
    """`layers` with one kernel behind the convolution, all in channels-last order.

    A channel's bias adds to its mean, which the norm takes away: it is never added, and its gradient is zero, where
    torch's layers give rounding errors. Half of the padding is made beforehand: with a padding of 2, oneDNN takes
    vectors of half the width for the weights' gradient.
    """

    @staticmethod
    def forward(
        x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, offset: Tensor, epsilon: float
    ) -> tuple[Tensor, ...]:
        """(out, x padded by one, the convolution's output, and place, mean and root of kernels.forward)."""
        # Not by contiguous(), which leaves images of one channel as they are.
        padded = pad(x.to(memory_format=torch.channels_last), (1, 1, 1, 1))
        made = torch.ops.aten.convolution(padded, weight, None, [1, 1], [1, 1], *_BESIDES)
        made = made.contiguous(memory_format=torch.channels_last)
        n, channels, h, w = made.shape
        out = _images(n, h // 2, w // 2, made.dtype)
        place = _images(n, h // 2, w // 2, torch.uint8)
        mean, root = made.new_empty(n, channels), made.new_empty(n, channels)
        number = _rows(made).dtype.type
        kernels.forward(
            _rows(made),
            gain.numpy(force=True),
            offset.numpy(force=True),
            number(epsilon),
            _rows(out),
            _rows(place),
            mean.numpy(),
            root.numpy(),
        )
        return out, padded, made, place, mean, root

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, weight, _, gain, _, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(weight, gain, *output[1:])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, pull: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        weight, gain, padded, made, place, mean, root = ctx.saved_tensors
        pull = pull.contiguous(memory_format=torch.channels_last)
        by_made, by_gain, by_offset = torch.empty_like(made), torch.empty_like(gain), torch.empty_like(gain)
        kernels.backward(
            _rows(pull),
            _rows(made),
            _rows(place),
            mean.numpy(),
            root.numpy(),
            gain.numpy(force=True),
            _rows(by_made),
            by_gain.numpy(),
            by_offset.numpy(),
        )
        by_x = None
        if ctx.needs_input_grad[0]:
            inside = torch.empty_like(padded[..., 1:-1, 1:-1])  # its values have no part in the gradient
            by_x = _pull_back(by_made, inside, weight, PADDING, 0)
        by_weight = _pull_back(by_made, padded, weight, 1, 1)
        return by_x, by_weight, torch.zeros_like(gain), by_gain, by_offset, None

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, ...], *inputs: Any
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        """Clients that are trained as one batch: one convolution with groups, and torch's layers."""
        out = torch.vmap(layers, in_dims)(*inputs)
        return (out, *(out.new_empty(0) for _ in range(5))), (0, None, None, None, None, None)


def _pull_back(pull: Tensor, x: Tensor, weight: Tensor, padding: int, by: int) -> Tensor:
    """A convolution's gradient by x (0) or by its weights (1)."""
    wanted = [by == 0, by == 1, False]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        pull, x, weight, None, [1, 1], [padding, padding], *_BESIDES, wanted
    )
    return found[by]


def _images(n: int, height: int, width: int, dtype: torch.dtype) -> Tensor:
    """(n, 32, height, width) in channels-last order, uninitialised."""
    return torch.empty(n, height, width, kernels.CHANNELS, dtype=dtype).permute(0, 3, 1, 2)


def _rows(images: Tensor) -> Any:
    """The same memory as (n, height, width, 32)."""
    return images.permute(0, 2, 3, 1).numpy()
