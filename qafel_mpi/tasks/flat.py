"""A torch module whose parameters are views into one flat vector."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn

from qafel_mpi.codecs.base import Layout
from qafel_mpi.kernels.memory import vector
from qafel_mpi.tasks import state
from qafel_mpi.tasks.buffers import Policy, mended, policies
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.make import freeze


class Moved(NamedTuple):
    """What training moves beside the parameters, as a trial of the module has shown (trial.py): full names."""

    buffers: frozenset[str] = frozenset()  # floating-point ones
    attributes: frozenset[str] = frozenset()


NOTHING = Moved()


class _Place(NamedTuple):
    """Where a module keeps a buffer. One buffer may lie in several places; it has the name of the first."""

    owner: nn.Module
    key: str
    name: str


class FlatModule:
    """A module bound to one flat vector: its trained parameters, and their gradients, are views.

    The vector holds what training moves: the trained parameters, and behind them the statistics (running means and
    variances), which are sent, quantized and averaged like parameters; buffers.py has the policy of each buffer.
    Everything else stays here and is never sent. Frozen parameters and constant buffers may not move. Counters
    (integer buffers, local ones, attributes that training changes) have their first values again whenever a vector
    is loaded. So what a client computes depends on the vector alone.

    vector: (d,); gradient: (trained,), of the first `trained` elements.
    """

    def __init__(
        self,
        module: nn.Module,
        dtype: torch.dtype,
        device: torch.device,
        moved: Moved = NOTHING,
        trainable: str | None = None,
    ):
        """trainable: train those parameters alone in whose names this regular expression is found; statistics
        without it stay local. Raises DataError."""
        self.module, self._moved = module, moved
        self._still = freeze(module, trainable) if trainable is not None else []
        self.train_mode()
        self._policies: dict[str, Policy] = {**dict.fromkeys(moved.buffers, "averaged"), **policies(module)}
        for name in self._policies:
            if trainable is not None and not re.search(trainable, name):
                self._policies[name] = "local"
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            raise DataError("the model has no parameters to train")
        self._places, buffers = _places(module)
        held = {name: buffer for name, buffer in buffers.items() if self._is_held(name, buffer)}
        _refuse_shared_memory(dict(module.named_parameters()) | buffers, {*trained, *held})

        module.to(device=device, dtype=dtype)
        shapes = (tuple(tensor.shape) for tensor in (*trained.values(), *held.values()))
        self.layout = Layout((*trained, *held), tuple(shapes))
        self.trained = sum(p.numel() for p in trained.values())
        self.vector = vector(self.layout.elements, dtype, device)
        self.gradient = vector(self.trained, dtype, device).zero_()
        # Copied even where it stays local: a buffer that was expanded can't be written to.
        self._buffers = {
            place.name: place.owner._buffers[place.key].clone(memory_format=torch.contiguous_format)  # type: ignore[union-attr]
            for place in reversed(self._places)
        }
        self._parameters: list[tuple[str, nn.Parameter, int]] = []
        for name, a, b, shape in zip(
            self.layout.names, self.layout.offsets, self.layout.offsets[1:], self.layout.shapes, strict=False
        ):
            view = self.vector[a:b].view(shape)
            if name in trained:
                parameter = trained[name]
                view.copy_(parameter.detach())
                parameter.data, parameter.grad = view, self.gradient[a:b].view(shape)
                self._parameters.append((name, parameter, view.data_ptr()))
            else:
                self._buffers[name] = view.copy_(self._buffers[name])
        self._mended = {name: p for name in held if callable(p := self._policies.get(name))}
        self._counters = [
            (name, buffer, buffer.clone())
            for name, buffer in self._buffers.items()
            if not buffer.is_floating_point() or self._policies.get(name) == "local"
        ]
        self._held = held.keys()
        self._bind()
        self._first = state.FirstValues(module, moved.attributes)
        local = self._buffers.keys() - held.keys() - {name for name, _, _ in self._counters}
        constants: list[Tensor] = [p for p in module.parameters() if not p.requires_grad]
        constants += [self._buffers[name] for name in local]
        self._constants = [(tensor, tensor._version) for tensor in constants]

    def _is_held(self, name: str, buffer: Tensor) -> bool:
        return buffer.is_floating_point() and self._policies.get(name, "local") != "local"

    @property
    def counts(self) -> bool:
        """Whether training moves anything that `load` puts back: counters, local buffers, attributes."""
        return bool(self._counters or self._moved.attributes)

    def train_mode(self) -> None:
        """The mode that the module's own train() chooses, but for the layers that stand still."""
        self.module.train()
        for layer in self._still:
            layer.eval()

    def load(self, x: Tensor) -> None:
        """vector[:] = x, from any device; everything else is as it was when the module was made."""
        self._bind()
        self.vector.copy_(x)
        for name, mend in self._mended.items():
            self._buffers[name].copy_(mended(name, self._buffers[name], mend))
        for _, counter, first in self._counters:
            counter.copy_(first)
        self._first.put_back()

    def _bind(self) -> None:
        for owner, key, name in self._places:
            owner._buffers[key] = self._buffers[name]

    def collect(self) -> None:
        """After a training: statistics that were assigned anew come into the vector.

        Raises DataError where what is trained lies elsewhere now, or something constant has moved.
        """
        for owner, key, name in self._places:
            if name in self._held and owner._buffers[key] is not self._buffers[name]:
                self._buffers[name].copy_(owner._buffers[key].detach())  # type: ignore[union-attr]
        for name, parameter, address in self._parameters:
            if parameter.data_ptr() != address:
                raise DataError(
                    f"the model exchanges its parameter {name!r} in training (by .data = ..., say): what it learns "
                    "would never be sent; write to it in place, or compute with it"
                )
        if any(tensor._version != version for tensor, version in self._constants):
            self.require_constant()

    def local_digest(self) -> str:
        """Of all that the vector does not hold, for ranks to compare. To be asked for before the first training: it
        is what `require_constant` goes by."""
        return hashlib.sha256(repr(sorted(self._first_digests.items())).encode()).hexdigest()[:16]

    @cached_property
    def _first_digests(self) -> dict[str, str]:
        return self._digests()

    def _digests(self) -> dict[str, str]:
        in_vector = (*(p for _, p, _ in self._parameters), *(self._buffers[name] for name in self._held))
        return state.digests(self.module, in_vector)

    def require_constant(self) -> None:
        """Raise DataError naming what has moved of all that `load` does not set."""
        set_by_load = {*self._held, *(name for name, _, _ in self._counters), *self._moved.attributes}
        moved = [n for n in state.changed(self._first_digests, self._digests()) if n not in set_by_load]
        if moved:
            raise DataError(
                f"the model changes {', '.join(map(repr, moved[:5]))} in training, and did not when it was tried: it "
                "would go from one client to the next; name a buffer in the module's buffer_policy, and keep "
                "what is not constant out of its other attributes"
            )


def _places(module: nn.Module) -> tuple[list[_Place], dict[str, Tensor]]:
    """Every place of a buffer, and the buffers by name."""
    places: list[_Place] = []
    names: dict[int, str] = {}
    buffers: dict[str, Tensor] = {}
    for path, owner in module.named_modules():
        for key, buffer in owner._buffers.items():
            if buffer is not None:
                name = names.setdefault(id(buffer), f"{path}.{key}" if path else key)
                places.append(_Place(owner, key, name))
                buffers[name] = buffer
    return places, buffers


def _refuse_shared_memory(tensors: Mapping[str, Tensor], in_vector: Collection[str]) -> None:
    """What the vector holds is moved into it; another tensor in the same memory would stay behind."""
    of_storage: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        of_storage.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    for names in of_storage.values():
        if len(names) > 1 and not in_vector.isdisjoint(names):  # type: ignore[attr-defined]
            _refuse_views({name: tensors[name] for name in names})


def _refuse_views(tensors: Mapping[str, Tensor]) -> None:
    """Raise DataError where two of these tensors, of one storage, have an element in common."""
    some = next(iter(tensors.values()))
    index = torch.arange(some.untyped_storage().nbytes() // some.itemsize)
    owner = torch.full_like(index, -1)
    for k, (name, tensor) in enumerate(tensors.items()):
        mine = index.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset()).flatten()
        if (other := int(owner[mine].max()) if len(mine) else -1) >= 0:
            raise DataError(
                f"the model's {list(tensors)[other]!r} and {name!r} are views of one memory, which a flat vector "
                "can't keep: use one parameter in both places, or copy it"
            )
        owner[mine] = k
