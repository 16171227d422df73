"""What a module knows beside its flat vector: seen by digests of names and values, and put back where it moves.

A module is to be a function of its vector alone. Whatever else it keeps (frozen parameters, buffers, attributes of
its own) must be the same on every rank, and the same at the start of every training.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Iterable
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np
import torch
from fastcrc import crc32
from torch import Tensor, nn

from qafel_mpi.tasks.errors import DataError

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))  # parameters, buffers, hooks: not attributes of the user's
_DEPTH = 8  # of nested attributes
_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_ABSENT = object()


def attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of the module and of those inside it that are no parameters, buffers or modules, by name."""
    return {
        f"{path}.{name}" if path else name: value
        for path, layer in module.named_modules()
        for name, value in vars(layer).items()
        if name not in _OF_EVERY_MODULE and name != "buffer_policy"
    }


def digests(module: nn.Module, held: Iterable[Tensor] = ()) -> dict[str, str]:
    """A digest of each parameter and buffer that is not among `held`, and of each attribute, by name."""
    known = {id(x) for x in (*module.modules(), *module.parameters(), *module.buffers())}
    held_ids = {id(tensor) for tensor in held}
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    found = {name: digest_of_tensor(tensor) for name, tensor in tensors.items() if id(tensor) not in held_ids}
    for name, value in attributes(module).items():
        digest = hashlib.blake2b(digest_size=8)
        _feed(digest, value, known, {}, 0)
        found[name] = digest.hexdigest()
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """The names whose values are new, gone, or other ones."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def digest_of_tensor(tensor: Tensor) -> str:
    plain = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
    data = plain.cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return f"{tensor.dtype} {tuple(tensor.shape)} {crc32.iscsi(data.data) if data.size else 0:08x}"


def _feed(digest: Any, value: Any, known: set[int], seen: dict[int, int], depth: int) -> None:
    """Whatever has no value that processes could compare (a function, a handle) counts by its type's name."""
    say = partial(_say, digest)
    if isinstance(value, _PLAIN):
        return say(repr(value))
    if id(value) in known:
        return say("known")
    if isinstance(value, Tensor):
        return say("meta" if value.is_meta else digest_of_tensor(value))
    if isinstance(value, np.ndarray) and value.dtype != object:
        return say(f"{value.dtype.str} {value.shape}", np.ascontiguousarray(value).tobytes())
    if id(value) in seen or depth > _DEPTH:
        return say(f"again {seen.get(id(value), 0)}")
    seen[id(value)] = len(seen)
    feed = partial(_feed, known=known, seen=seen, depth=depth + 1)
    say(f"{type(value).__module__}.{type(value).__qualname__}")
    match value:
        case dict():
            for key, item in value.items():
                feed(digest, key)
                feed(digest, item)
        case list() | tuple():
            for item in value:
                feed(digest, item)
        case set() | frozenset():
            say(*sorted(repr(item) for item in value))
        case np.ndarray():
            feed(digest, value.tolist())
        case np.generic():
            say(repr(value))
        case torch.Generator():
            feed(digest, value.get_state())
        case np.random.Generator():
            feed(digest, value.bit_generator.state)
        case random.Random():
            say(repr(value.getstate()))
        case type() | FunctionType():
            say(value.__qualname__)
        case partial():
            feed(digest, [value.func, value.args, value.keywords])
        case nn.Module():  # one that is not registered, or it would be known
            feed(digest, [vars(value)[name] for name in ("_parameters", "_buffers", "_modules")])
            feed(digest, {k: v for k, v in vars(value).items() if k not in _OF_EVERY_MODULE})
        case _ if hasattr(value, "__dict__"):
            feed(digest, vars(value))


def _say(digest: Any, *texts: str | bytes) -> None:
    for text in texts:
        digest.update(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
        digest.update(b"\0")


class FirstValues:
    """The attributes of a module that its forward pass changes, as they were when it was made."""

    def __init__(self, module: nn.Module, names: Iterable[str]):
        """Raises DataError naming the attribute that can't be copied."""
        # What an attribute refers to of the module itself is not copied with it.
        self._shared = {id(x): x for x in (*module.modules(), *module.parameters(), *module.buffers())}
        self._kept = []
        for full in names:
            path, _, name = full.rpartition(".")
            owner = module.get_submodule(path)
            self._kept.append((owner, name, self._copy(full, vars(owner).get(name, _ABSENT))))

    def put_back(self) -> None:
        for owner, name, value in self._kept:
            if value is _ABSENT:
                vars(owner).pop(name, None)
            else:
                vars(owner)[name] = self._copy(name, value)

    def _copy(self, name: str, value: Any) -> Any:
        if value is _ABSENT or isinstance(value, _PLAIN):
            return value
        if isinstance(value, Tensor) and id(value) not in self._shared:
            return value.detach().clone()
        try:
            return copy.deepcopy(value, dict(self._shared))
        except Exception as error:
            raise DataError(
                f"the model's attribute {name!r} changes in training and can't be put back for the next client "
                f"({type(error).__name__}: {error}); make it a buffer, or leave it as it is"
            ) from error
