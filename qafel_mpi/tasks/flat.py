"""A torch module whose parameters are views into one flat vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qafel_mpi.codecs.base import Layout
from qafel_mpi.kernels.memory import vector
from qafel_mpi.tasks.errors import DataError


class FlatModule:
    """A module bound to one flat vector: its parameters, and their gradients, are views.

    The vector holds the trained parameters first, then frozen ones and the floating-point buffers. So the running
    mean and variance of BatchNorm take part: they are sent, quantized and averaged like parameters, and what a
    client computes depends on the vector alone. A running variance that quantization made negative is read as
    zero. Other buffers (BatchNorm's count of batches) stay local, and start from their first value each time.

    vector: (d,); gradient: (trained,), of the first `trained` elements.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device):
        self.module = module.to(device=device, dtype=dtype)
        parameters = list(self.module.named_parameters())
        trained = [(name, p) for name, p in parameters if p.requires_grad]
        if not trained:
            raise DataError("the model has no parameters to train")
        buffers = list(self.module.named_buffers())
        held = [(name, p) for name, p in parameters if not p.requires_grad]
        held += [(name, b) for name, b in buffers if b.is_floating_point()]  # type: ignore[misc]
        self._local = [(b, b.clone()) for _, b in buffers if not b.is_floating_point()]

        named = [*trained, *held]
        self.layout = Layout(tuple(name for name, _ in named), tuple(tuple(t.shape) for _, t in named))
        self.trained = sum(p.numel() for _, p in trained)
        self.vector = vector(self.layout.elements, dtype, device)
        self.gradient = vector(self.trained, dtype, device).zero_()
        self._variances: list[Tensor] = []
        for k, (name, tensor) in enumerate(named):
            where = slice(self.layout.offsets[k], self.layout.offsets[k + 1])
            view = self.vector[where].view(tensor.shape)
            view.copy_(tensor.detach())
            tensor.data = view
            if tensor.requires_grad:
                tensor.grad = self.gradient[where].view(tensor.shape)
            elif name.endswith("running_var"):
                self._variances.append(view)

    def load(self, x: Tensor) -> None:
        """vector[:] = x, from any device."""
        self.vector.copy_(x)
        for variance in self._variances:
            variance.clamp_(min=0)
        for buffer, first in self._local:
            buffer.copy_(first)
