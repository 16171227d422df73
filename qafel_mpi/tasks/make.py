"""The user's model function called, and its module made ready for a flat vector, or refused with the reason."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.parameter import is_lazy

from qafel_mpi.own import said
from qafel_mpi.tasks.errors import DataError


def made(make: Callable[[], Any], dtype: torch.dtype, examples: Tensor) -> nn.Module:
    """The module that `make` gives, with values in every parameter.

    examples: two, on the CPU, as the model sees them: layers that learn their shape from data are given these.
    Raises DataError where it is no module, or where its conversion to dtype would lose something.
    """
    module = make()
    if not isinstance(module, nn.Module):
        ends = "; does the function end without a return?" if module is None else ""
        raise DataError(
            f"the model's function gave {described(module)}; it must give a torch.nn.Module{ends}"
        )
    _fill(module, examples)
    for name, tensor in _tensors(module):
        if tensor.is_meta:
            raise DataError(
                f"the model's {name!r} lies on the meta device, without values; make the model on the CPU"
            )
        _refuse_what_loses(name, tensor, dtype)
    if not any(parameter.requires_grad for parameter in module.parameters()):
        raise DataError("the model has no parameters to train")
    return module


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _fill(module: nn.Module, examples: Tensor) -> None:
    """Lazy layers take their shapes from one batch."""
    if not any(is_lazy(tensor) for _, tensor in _tensors(module)):
        return
    with failing_layer_named(module, f"a batch of {tuple(examples.shape)}"), torch.no_grad():
        module.eval()(examples)
    for name, tensor in _tensors(module):
        if is_lazy(tensor):
            raise DataError(
                f"the model's {name!r} has no shape: a batch of examples does not pass through its layer"
            )


def _refuse_what_loses(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.is_complex():
        raise DataError(
            f"the model's {name!r} is {tensor.dtype}, and models are {dtype}: keep two real tensors"
        )
    if tensor.dtype.is_floating_point and torch.finfo(tensor.dtype).max > torch.finfo(dtype).max:
        lost = torch.isfinite(tensor) & ~torch.isfinite(tensor.to(dtype))
        if bool(lost.any()):
            raise DataError(
                f"the model's {name!r} holds {float(tensor[lost].flatten()[0]):g}, which {dtype} can't: "
                "set task.dtype = 'float64', or scale it"
            )


def freeze(module: nn.Module, trainable: str) -> list[nn.Module]:
    """Train the parameters alone in whose names the regular expression is found.

    Returns the normalisation layers without any such name: their statistics are to stand still too.
    Raises DataError where it is found in none.
    """
    names = [name for name, _ in module.named_parameters()]
    found = [name for name in names if re.search(trainable, name)]
    if not found:
        some = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DataError(f"client.trainable = {trainable!r}: found in no parameter's name; there are {some}")
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in found)
    still: list[nn.Module] = []
    for path, layer in module.named_modules():
        inside = [path, *(f"{path}.{name}" for name in layer.state_dict())]
        if isinstance(layer, _NormBase) and not any(re.search(trainable, name) for name in inside):
            still.append(layer)
    return still


# --- what is said of user code ------------------------------------------------------------------------


def described(value: object) -> str:
    """What a function of the user's gave, in words: 'a tuple of 2', 'a tensor of shape (3, 4)', 'None'."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)} and type {value.dtype}"
    size = f" of {len(value)}" if isinstance(value, tuple | list | dict) else ""
    return f"a {type(value).__name__}{size}"


@contextmanager
def failing_layer_named(module: nn.Module, doing: str) -> Iterator[None]:
    """Turn what a forward or backward pass inside raises into a DataError that names layer, error and line."""
    names = {id(layer): name for name, layer in module.named_modules()}
    inside: list[nn.Module] = []  # layers that have been entered and not left, outermost first

    def leave(*_: object) -> None:
        inside.pop()

    entering = register_module_forward_pre_hook(lambda layer, _: inside.append(layer))
    leaving = register_module_forward_hook(leave)
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        where = [(names.get(id(layer), ""), type(layer).__name__) for layer in inside]
        name, kind = next((pair for pair in reversed(where) if pair[0]), ("", ""))
        layer = f"layer {name!r} ({kind}) of the model" if name else "the model"
        raise DataError(f"{layer} can't take {doing}: {said(error)}") from error
    finally:
        entering.remove()
        leaving.remove()
