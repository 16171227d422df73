"""Which of a module's buffers the flat vector holds, and how they are mended when clients have been averaged.

A buffer that training moves is a statistic: clients' statistics are sent and averaged as parameters are. An average,
or what a quantizer leaves of it, may break a constraint: a variance below zero, a singular vector that is not of
length 1. So each buffer has a policy:

"local"      never sent; it has its first value again at the start of every training and evaluation
"averaged"   held by the vector
a function   held by the vector; function(value) -> value is applied whenever a vector is loaded

Known kinds have theirs below. A module gives its own buffers a policy by an attribute, names relative to itself:

```python
self.buffer_policy = {"centre": "averaged", "seen": "local", "direction": lambda v: v / v.norm()}
```

Others are averaged if training moves them (trial.py finds out), and constant if not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.make import described

Mend = Callable[[Tensor], Tensor]
Policy = Literal["local", "averaged"] | Mend


def policies(module: nn.Module) -> dict[str, Policy]:
    """Of the buffers of known kinds that training moves, and of those that a module names itself, by full name.

    module: in the mode that its train() has left. Raises DataError for a policy that is none.
    """
    found: dict[str, Policy] = {}
    for path, layer in module.named_modules():
        prefix = f"{path}." if path else ""
        found |= {prefix + name: policy for name, policy in _known(layer)}
        found |= {prefix + name: policy for name, policy in _declared(layer, path or "the model")}
    return found


def _known(layer: nn.Module) -> Iterator[tuple[str, Policy]]:
    if isinstance(layer, _NormBase):
        yield "num_batches_tracked", "local"
        if layer.training and layer.track_running_stats:
            yield "running_mean", "averaged"
            yield "running_var", not_negative
    elif isinstance(layer, _SpectralNorm):
        yield from ((name, of_length_one) for name in ("_u", "_v"))
    for hook in layer._forward_pre_hooks.values():
        if isinstance(hook, SpectralNorm):
            yield from ((f"{hook.name}_{end}", of_length_one) for end in "uv")


def _declared(layer: nn.Module, where: str) -> Iterator[tuple[str, Policy]]:
    declared = getattr(layer, "buffer_policy", {})
    if not isinstance(declared, Mapping):
        raise DataError(
            f"buffer_policy of {where} is {described(declared)}; it is a dictionary of the layer's buffers by name"
        )
    buffers = dict(layer.named_buffers())
    for name, policy in declared.items():
        if name not in buffers:
            raise DataError(f"buffer_policy of {where}: there is no buffer {name!r}")
        if policy not in ("local", "averaged") and not callable(policy):
            raise DataError(
                f"buffer_policy of {where}: {name!r} has {policy!r}; it is 'local', 'averaged' or a function"
            )
        if policy != "local" and not buffers[name].is_floating_point():
            raise DataError(
                f"buffer_policy of {where}: {name!r} is {buffers[name].dtype}, and only floats are averaged"
            )
        yield name, policy


def mended(name: str, buffer: Tensor, mend: Mend) -> Tensor:
    """What a policy makes of a buffer's value. Raises DataError where it is no value of that buffer."""
    value: object = mend(buffer)
    if not isinstance(value, Tensor) or value.shape != buffer.shape:
        raise DataError(
            f"buffer_policy: the function of {name!r} gave {described(value)} for {described(buffer)}; it must "
            "give a value of that shape"
        )
    return value


def not_negative(variance: Tensor) -> Tensor:
    return variance.clamp(min=0)


def of_length_one(direction: Tensor) -> Tensor:
    """A vector of zeros has no direction: it becomes that of equal elements."""
    length = torch.linalg.vector_norm(direction)
    equal = torch.full_like(direction, direction.numel() ** -0.5)
    return torch.where(length > 0, direction / length, equal)
