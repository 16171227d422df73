"""What the codecs with kernels for a GPU share: encodings on a stream of their own, decoding where the sum is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.codecs.base import Buffers, Codec, Encoding

if TYPE_CHECKING:
    from qafel_mpi.kernels import gpu


class Transfer(Protocol):
    """A payload that a device writes: kernels.gpu's side of an Encoding."""

    def ready(self) -> bool:
        """Whether it lies where it was wanted."""

    def finish(self) -> int:
        """Wait for it. Returns -1, or an index not below 0 where the vector was not finite."""


@dataclass(frozen=True, slots=True)
class OnDevice:
    """The encoding of a tensor on a GPU, on a stream of the codec's own. It keeps x alive until it is done."""

    codec: Codec
    x: Tensor
    transfer: Transfer

    def ready(self) -> bool:
        return self.transfer.ready()

    def finish(self) -> int:
        if self.transfer.finish() >= 0:
            self.codec.refuse(self.x)
        return self.codec.payload_bytes()


class DeviceCodec(Codec):
    """Tensors on a GPU are encoded there, and decoded there; others by the kernels in _cpu."""

    encodes_on_device = True
    _cpu: Any  # decode(payload, acc, weight, assign=) of numpy's arrays
    _gpu: gpu.DeviceKernels | None = None

    @abstractmethod
    def _kernels_on(self, device: torch.device) -> Any:
        """encode(x, payload, key) and decode(payload, acc, weight, assign=) of tensors there (kernels/eager.py)."""

    def _on(self, device: torch.device) -> gpu.DeviceKernels:
        """The kernels for tensors there: one device a process, made at its first tensor."""
        if self._gpu is None:
            from qafel_mpi.kernels import gpu

            self._gpu = gpu.DeviceKernels(self._kernels_on(device), self.payload_bytes(), device)
        return self._gpu

    def begin(self, x: Tensor, out: np.ndarray | Tensor, key: int) -> Encoding:
        if not x.is_cuda:
            return super().begin(x, out, key)
        return OnDevice(self, x, self._on(x.device).begin(x, out, key))

    def encode_all(self, xs: Tensor, outs: Buffers, keys: np.ndarray) -> list[int]:
        if not xs.is_cuda:
            return super().encode_all(xs, outs, keys)
        if self._on(xs.device).encode_all(xs, outs, keys.tolist()) >= 0:
            for x in xs:
                self.require_finite(x.float())
        return [self.payload_bytes()] * len(outs)

    def _decode(self, valid: np.ndarray, acc: Tensor, weight: float, key: int, *, assign: bool) -> None:
        if acc.is_cuda:
            self._on(acc.device).decode(valid, acc, weight, assign=assign)
        else:
            self._cpu.decode(valid, acc.numpy(), weight, assign=assign)
