"""The codec contract: flat vector <-> payload."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.kernels.digests import Digests
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.kernels.numba.floats import all_finite
from qafel_mpi.kernels.numba.moving import Motion, Mover, Norms, OnePass
from qafel_mpi.kernels.numba.norms import distance, norm
from qafel_mpi.kernels.numba.pieces import subtract
from qafel_mpi.own import source_digest


@dataclass(frozen=True)
class Layout:
    """The tensors inside the flat vector, in order.

    places: of a part of a longer vector, the first element of each tensor in that one.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    places: tuple[int, ...] | None = field(default=None, repr=False)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        return tuple(prod(shape) for shape in self.shapes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """First element of each tensor, and d at the end."""
        offsets = [0]
        for size in self.sizes:
            offsets.append(offsets[-1] + size)
        return tuple(offsets)

    @property
    def elements(self) -> int:
        """d"""
        return self.offsets[-1]

    @cached_property
    def pieces(self) -> np.ndarray:
        """(n, 3) int64 of tensors side by side: first element in the longer vector, first one in this, elements."""
        found: list[list[int]] = []
        begins = self.offsets if self.places is None else self.places
        for place, begin, size in zip(begins, self.offsets, self.sizes, strict=False):
            if found and found[-1][0] + found[-1][2] == place:
                found[-1][2] += size
            elif size:
                found.append([place, begin, size])
        return np.array(found, dtype=np.int64).reshape(-1, 3)

    @property
    def extent(self) -> int:
        """Elements of the longer vector up to the last of these tensors; d where there is no longer one."""
        return int(self.pieces[-1, 0] + self.pieces[-1, 2]) if len(self.pieces) else 0

    def locate(self, index: int) -> tuple[str, int]:
        """(tensor's name, index within it) of an index in the vector, or in the longer one that the places are in."""
        begins = self.offsets if self.places is None else self.places
        k = int(np.searchsorted(begins, index, side="right")) - 1
        return self.names[k], index - begins[k]


class NonFiniteError(ValueError):
    """A vector with a NaN or an infinity, which no codec can send: the training has diverged."""

    def __init__(self, layout: Layout, index: int, value: float):
        name, within = layout.locate(index)
        super().__init__(
            f"tensor {name!r}, element {within} is {value}: the training diverged; lower the learning rate"
        )
        self.tensor, self.index, self.value = name, within, value


class PayloadError(ValueError):
    """A payload that cannot have been written by this codec."""


Buffers = (
    Sequence[np.ndarray] | np.ndarray
)  # uint8, one for each of several messages, or the rows of one array


class Encoding(Protocol):
    """An encoding that Codec.begin has started."""

    def ready(self) -> bool:
        """Whether it is done, and `finish` waits for nothing. Never waits itself."""

    def finish(self) -> int:
        """Wait until it is done. Returns the bytes written. Raises NonFiniteError."""


class Done(NamedTuple):
    """An encoding that was done at once."""

    payload_bytes: int

    def ready(self) -> bool:
        return True

    def finish(self) -> int:
        return self.payload_bytes


class Codec(ABC):
    """Encodes vectors of one layout. Holds scratch of its own: on the CPU encode, decode, accumulate and
    encode_difference of qsgd, sign and affine allocate nothing (encode_difference but for the first time); the others
    leave theirs to torch, numpy and zstd.

    x and acc: (d,) float32 or float64 tensors, contiguous. out and payload: uint8 arrays. key: the 64-bit key
    of the message's random numbers (kernels.keys), the same at both ends.
    """

    name: str
    id: int = 128  # on the wire, fixed for ever; 128 to 255 are for codecs of the user's own
    unbiased: bool  # E[Q(x)] = x
    bits: int  # a code's width, in the header; 32 and 64 for floats
    flags: int = 0  # header flags of its messages
    encodes_on_device: bool = False  # `begin` can also write to a tensor beside x
    threaded: bool = True  # takes less time with more threads
    # On the CPU x and acc are the vector that the layout's places are in, without gathering what lies apart.
    in_place: bool = False
    shared: bool = False  # all messages of a run have one key (kernels.keys.Stream.ROTATION)
    own_sums: bool = False  # it adds messages up in a basis or a type of its own: sum_all, resolve
    clips: bool = False  # elements may be too large for it: `clipped`
    wrapped: int = 0  # see near.NearCodec
    # What `validate` lets pass decodes to finite numbers. Where it may not, payloads are decoded aside first.
    decodes_finite: bool = False
    # _decode(assign=True) also takes a weight, writes every element, and what accumulate makes of zeros differs from
    # that in the sign of zeros at most.
    starts_sums: bool = False
    moves: bool = False  # `one_pass` has kernels that do what encode, encode_difference and decode do

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Who decodes in another way than its parent has to say for itself what comes out."""
        super().__init_subclass__(**kwargs)
        own = vars(cls).keys()
        if {"_decode", "validate"} & own and "decodes_finite" not in own:
            cls.decodes_finite = False
        if {"_decode", "_sum", "sum_all", "accumulate"} & own and "starts_sums" not in own:
            cls.starts_sums = False
        if {"_decode", "encode", "encode_difference"} & own and "moves" not in own:
            cls.moves = False
        if {"_decode", "validate"} & own and not {"validate_all", "_decode_all"} <= own:
            cls.validate_all, cls._decode_all = Codec.validate_all, Codec._decode_all  # type: ignore[method-assign]

    def __init__(self, layout: Layout, dtype: torch.dtype = torch.float32):
        if not layout.elements:
            raise ValueError("a layout without elements: there is nothing to encode")
        self.layout = layout
        self.dtype = dtype
        self._scratch: Tensor | None = None
        self._mover: Mover | None = None

    @abstractmethod
    def payload_bytes(self) -> int:
        """Bytes of every payload; with entropy coding the most that one can have."""

    @abstractmethod
    def encode(self, x: Tensor, out: np.ndarray, key: int) -> int:
        """Quantize and pack x into out. Returns the bytes written. Raises NonFiniteError."""

    def begin(self, x: Tensor, out: np.ndarray | Tensor, key: int) -> Encoding:
        """Start `encode`. Neither x nor out may be touched until it is finished, nor the codec be used else.

        For a tensor on a GPU the quantizing and the copy to the host, straight to `out` where that is pinned, go on
        beside what the caller's stream does; where encodes_on_device, `out` may also be a uint8 tensor on x's
        device, and nothing crosses. Others encode at once.
        """
        assert isinstance(out, np.ndarray), f"{self.name} encodes to the host"
        return Done(self.encode(x, out, key))

    def validate(self, payload: np.ndarray) -> np.ndarray:
        """What `_decode` takes: the payload, or with entropy coding what it holds, in this codec's own buffer.

        Raises PayloadError where it can't be decoded safely. Here: its length. A codec with decodes_finite refuses
        what does not decode to finite numbers, too.
        """
        if payload.size != self.payload_bytes():
            raise PayloadError(
                f"{self.name}: payload of {payload.size} bytes, expected {self.payload_bytes()}"
            )
        return payload

    @abstractmethod
    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        """acc += weight · Q(x), or acc = Q(x) (weight 1), of what `validate` returned: nothing is checked here."""

    def decode(self, payload: np.ndarray, out: Tensor, key: int) -> None:
        """out[:] = Q(x), finite. Raises PayloadError, and then out is as it was."""
        self._decode(self.checked(payload, out, key), out, 1.0, key, assign=True)

    def accumulate(self, payload: np.ndarray, acc: Tensor, weight: float, key: int) -> None:
        """acc += weight · Q(x), in place; with weight 1 the same bits as decode and add. Raises PayloadError, and
        then acc is as it was."""
        self._decode(self.checked(payload, acc, key), acc, weight, key, assign=False)

    def checked(self, payload: np.ndarray, like: Tensor, key: int) -> np.ndarray:
        """What `validate` returns, of a payload that decodes to finite numbers. Raises PayloadError."""
        valid = self.validate(payload)
        if not self.decodes_finite:
            self.require_finite_decoding(valid, like, key)
        return valid

    def require_finite_decoding(self, valid: np.ndarray, like: Tensor, key: int) -> None:
        """Decode what `validate` returned to a vector like this one. Raises PayloadError where that isn't finite."""
        q = self.scratch(like)
        if self.layout.places is not None:
            q.zero_()  # where other parts lie nothing is written
        self._decode(valid, q, 1.0, key, assign=True)
        if not _is_finite(q):
            raise PayloadError(f"{self.name}: it decodes to a number that is not finite")

    def encode_all(self, xs: Tensor, outs: Buffers, keys: np.ndarray) -> list[int]:
        """encode of each row of xs, with the same bytes. xs: (n, d). keys: (n,) uint64. Returns the bytes written to
        each. Raises NonFiniteError of one row where any is not finite; the others' payloads are of no use then.
        """
        return [self.encode(x, out, key) for x, out, key in zip(xs, outs, keys.tolist(), strict=True)]

    def accumulate_all(
        self, payloads: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        """accumulate each in this order: the same bits. All are checked first: where it raises PayloadError, acc is
        as it was."""
        valid = [self.checked(payload, acc, key) for payload, key in zip(payloads, keys, strict=True)]
        for payload, weight, key in zip(valid, weights, keys, strict=True):
            self._decode(payload, acc, weight, key, assign=False)

    def validate_all(self, payloads: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """What `_decode_all` takes: `validate` of each. For codecs whose `validate` returns no buffer of theirs."""
        return [self.validate(payload) for payload in payloads]

    def _decode_all(
        self, valid: Sequence[np.ndarray], acc: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        """acc += weight · Q(x) of each in this order, of what `validate_all` returned."""
        for payload, weight, key in zip(valid, weights, keys, strict=True):
            self._decode(payload, acc, weight, key, assign=False)

    @property
    def sum_elements(self) -> int:
        """Elements of what `sum_all` adds up to: d, or more in a basis of the codec's own."""
        return self.layout.elements

    def sum_all(
        self, payloads: Sequence[np.ndarray], sums: Tensor, weights: Sequence[float], keys: Sequence[int]
    ) -> None:
        """As accumulate_all, to sums that `resolve` turns into a vector: (sum_elements,), zeros at first. Where it
        raises PayloadError, sums is as it was."""
        if not self.own_sums:
            self.accumulate_all(payloads, sums, weights, keys)
            return
        like = sums[: self.layout.elements]
        valid = [self.checked(payload, like, key) for payload, key in zip(payloads, keys, strict=True)]
        for payload, weight, key in zip(valid, weights, keys, strict=True):
            self._sum(payload, sums, weight, key)

    def start_sum(self, payload: np.ndarray, sums: Tensor, weight: float, key: int) -> None:
        """sums = weight · Q(x), whatever they held: sum_all of one payload to zeros, but for the sign of zeros.

        Where it raises PayloadError, sums may hold anything.
        """
        if self.starts_sums and not self.own_sums and self.layout.places is None:
            self._decode(self.checked(payload, sums, key), sums, weight, key, assign=True)
        else:
            self.sum_all([payload], sums.zero_(), [weight], [key])

    def take_digests(self, found: Digests) -> bool:
        """From now on put the digests of payloads there while they are decoded, where that saves time.

        Returns whether it does. Here: no.
        """
        return False

    def _sum(self, valid: np.ndarray, sums: Tensor, weight: float, key: int) -> None:
        """sums += weight · Q(x) in the basis of the sums."""
        self._decode(valid, sums, weight, key, assign=False)

    def resolve(self, sums: Tensor, key: int) -> Tensor:
        """The vector, (d,), that sums stand for: sums itself, or memory of the codec's own. key: of the messages,
        where they share one."""
        return sums

    def clipped(self, payload: np.ndarray) -> int:
        """How many elements of the vector were too large, as a payload that was taken says."""
        return 0

    def encode_difference(self, x: Tensor, x_hat: Tensor, out: np.ndarray, key: int) -> int:
        """payload = Q(x − x̂); x̂ += decode(payload), from the very bytes written. Returns their number.

        Algorithm 1 of arXiv 2308.00263, the hidden-state step. Where it raises NonFiniteError x̂ may have moved in
        part: the run has ended. Raises PayloadError where what it wrote does not decode to finite numbers.
        """
        difference = self.scratch(x)
        if x.is_cuda or not self.in_place or self.layout.places is None:
            torch.sub(x, x_hat, out=difference)
        else:
            subtract(x.numpy(), x_hat.numpy(), self.layout.pieces, difference.numpy())
        written = self.encode(difference, out, key)
        if not self.decodes_finite:
            self.require_finite_decoding(out[:written], x_hat, key)
        self._decode(out[:written], x_hat, 1.0, key, assign=False)
        return written

    def move_and_encode(
        self,
        motion: Motion,
        x_hat: np.ndarray,
        out: np.ndarray,
        key: int,
        *,
        assigns: bool = False,
        measure: bool = True,
    ) -> tuple[int, Norms]:
        """A server step: x moves as the motion says; then encode_difference, or where x̂ is assigned encode(x) and
        decode. Returns (bytes written, the step's norms). Raises as they do: then x has moved, x̂ perhaps in part.

        x_hat: (d,), as motion.x. measure: the norms are wanted; without it they may be nan. In one pass they are
        taken on the way.
        """
        kernels = self.one_pass(assigns) if self.steps_in_one_pass(assigns) else None
        if kernels is None:
            return self.move_then_encode(motion, x_hat, out, key, assigns=assigns, measure=measure)
        bad, norms = kernels.move_and_step(motion, x_hat, out, key)
        if bad >= 0:
            self.refuse(torch.from_numpy(motion.x if assigns else motion.x - x_hat))
        return self.payload_bytes(), norms

    def steps_in_one_pass(self, assigns: bool) -> bool:
        """Whether `move_and_encode` takes one pass over the vectors, and so no room for x − x̂."""
        return self.moves and self.layout.places is None and self.one_pass(assigns) is not None

    def one_pass(self, assigns: bool) -> OnePass | None:
        """The kernels that take a motion into their step; None where there are none, and passes follow each other."""
        return None

    def move_then_encode(
        self, motion: Motion, x_hat: np.ndarray, out: np.ndarray, key: int, *, assigns: bool, measure: bool
    ) -> tuple[int, Norms]:
        """move_and_encode in passes one after the other, with the same bits."""
        x, follower = torch.from_numpy(motion.x), torch.from_numpy(x_hat)
        if self._mover is None:
            self._mover = Mover(x.numel(), torch.get_num_threads())
        moved = self._mover.move(motion)
        difference = gap = float("nan")
        if measure:
            difference = norm(x) if assigns else distance(x, follower)
        if assigns:
            written = self.encode(x, out, key)
            self.decode(out[:written], follower, key)
        else:
            written = self.encode_difference(x, follower, out, key)
        if measure:
            gap = distance(x, follower)
        return written, Norms(moved, difference, gap)

    def fingerprint(self) -> str:
        """What both ends must agree on before the first message."""
        return f"{self.name} {self.bits} bits {self.payload_bytes()} bytes {source_digest(type(self))}"

    def delta(self) -> float | None:
        """δ of Definition 2.1, guaranteed: E‖Q(x) − x‖² ≤ (1 − δ)‖x‖². None: not known; ≤ 0: no contraction."""
        return None

    def scratch(self, like: Tensor) -> Tensor:
        """A vector of this codec's own, of that type on that device."""
        scratch = self._scratch
        if scratch is None or (scratch.dtype, scratch.device) != (like.dtype, like.device):
            scratch = self._scratch = vector_like(like)
        return scratch

    def require_finite(self, x: Tensor) -> None:
        """Raise NonFiniteError where an element of x is not finite."""
        if not _is_finite(x):
            self.refuse(x)

    def refuse(self, x: Tensor) -> NoReturn:
        """Raise NonFiniteError naming the first element of x that is no finite float32."""
        index = int(torch.isfinite(x.float()).logical_not_().int().argmax())
        raise NonFiniteError(self.layout, index, float(x[index]))


def _is_finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all()) if x.is_cuda else all_finite(x.numpy())
