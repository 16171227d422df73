"""A stand-in for a GPU: tensors that say they lie on one, and streams and events that take their time.

What a GPU would compute is computed at once by torch's operations; but what was begun is handed out only when
it is finished, and whoever touches its vector or its buffer before is caught.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from qafel_mpi.kernels import gpu
from qafel_mpi.kernels.eager import EagerAffine, EagerKernels

HOST = torch.device("cpu")


class OnGpu(Tensor):
    """Its numbers reach the host by a copy alone, and `crossed` counts those of whole vectors."""

    crossed = 0
    is_cuda = True  # type: ignore[assignment]

    def numpy(self, **_: Any) -> np.ndarray:
        raise TypeError("can't convert cuda device type tensor to numpy")

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        if self.is_floating_point() and self.numel() > 1:
            OnGpu.crossed += 1
        return self.as_subclass(Tensor)


class Stream:
    def __init__(self, device: torch.device):
        pass

    def wait_stream(self, other: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Event:
    """Has happened when it was asked for `late` times since it was recorded, or waited for."""

    late = 2

    def __init__(self) -> None:
        self.questions = self.late

    def record(self, stream: Stream) -> None:
        self.questions = 0

    def query(self) -> bool:
        self.questions += 1
        return self.questions > self.late

    def synchronize(self) -> None:
        self.questions = self.late


class Watched(gpu._Outgoing):
    """Keeps what was written until it is finished. begun, finished, waited: of all encodings, in this process.

    most: how many there were at once.
    """

    begun = finished = waited = most = 0
    busy: ClassVar[set[Watched]] = set()

    def begin(self, encode: Callable[[Tensor], Tensor], out: np.ndarray | Tensor) -> Watched:
        assert self not in Watched.busy, "one encoding at a time"
        super().begin(encode, out)
        closed = [cell.cell_contents for cell in encode.__closure__ or ()]
        self.x = next(value for value in closed if isinstance(value, Tensor))
        self.x_then = self.x.clone()
        self.out = torch.as_tensor(out)[: self._size]
        self.bytes = self.out.clone()
        self.out.fill_(0xEE)
        Watched.begun += 1
        Watched.busy.add(self)
        Watched.most = max(Watched.most, len(Watched.busy))
        return self

    def finish(self) -> int:
        assert isinstance(self._done, Event)
        Watched.waited += self._done.questions < Event.late
        result = super().finish()
        assert torch.equal(self.x.view(torch.uint8), self.x_then.view(torch.uint8)), (
            "the vector has changed while it was encoded"
        )
        if self._copy_to is None:
            self.out.copy_(self.bytes)
        Watched.finished += 1
        Watched.busy.discard(self)
        return result


def pretend(monkeypatch: pytest.MonkeyPatch, *, pinned: bool = True, triton: bool = False) -> None:
    """From here on tensors of class OnGpu take the way that a GPU's take. pinned: every host buffer is.

    triton: its kernels compute, in a process where they are interpreted; else torch's operations.
    """
    for name, stand_in in {
        "Stream": Stream,
        "Event": Event,
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda device=None: Stream(HOST),
        "current_device": lambda: 0,
        "set_device": lambda device: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(gpu, "pinned_bytes", partial(torch.empty, dtype=torch.uint8))
    monkeypatch.setattr(gpu, "is_pinned", lambda host: pinned)
    monkeypatch.setattr(gpu, "_Outgoing", Watched)
    if not triton:
        monkeypatch.setattr(
            gpu,
            "bucket_kernels",
            lambda plan, bits, s, kind, device: EagerKernels(plan, bits=bits, s=s, kind=kind),
        )
        monkeypatch.setattr(
            gpu, "affine_kernels", lambda wide, plain, bits, device: EagerAffine(wide, plain, bits=bits)
        )
    Watched.busy.clear()
    count_afresh()


def count_afresh() -> None:
    Watched.begun = Watched.finished = Watched.waited = Watched.most = OnGpu.crossed = 0
