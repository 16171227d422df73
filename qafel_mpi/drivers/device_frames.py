"""Frames of a rank that computes on a GPU: page-locked, so that the device copies there by itself, or on the device.

A payload on the device goes to MPI as it lies there (transport.device_buffers), where the library takes device
buffers and checksums leave payloads out: a checksum over the payload would need it on the host.
None of this has run on a GPU yet; the tests have a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from qafel_mpi.drivers.build import Setup
from qafel_mpi.kernels import gpu
from qafel_mpi.kernels.aligned import aligned_bytes
from qafel_mpi.transport import placement
from qafel_mpi.transport.frames import Frame, new_frame
from qafel_mpi.wire import FLAG_HEADER_ONLY, HEADER_BYTES


class DeviceBytes:
    """Bytes on a GPU as MPI takes them: the CUDA array interface, version 3. It names no stream: the bytes are ready.

    tensor: (bytes,) uint8, contiguous.
    """

    def __init__(self, tensor: Tensor):
        self._tensor = tensor  # kept alive

    def __getitem__(self, part: slice) -> DeviceBytes:
        return DeviceBytes(self._tensor[part])

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": (self._tensor.numel(),),
            "typestr": "|u1",
            "data": (self._tensor.data_ptr(), False),
            "strides": None,
        }


class DeviceFrame(Frame):
    """A frame whose bytes lie on a device. The header is written on the host, and follows when it is sealed.

    Only for messages whose checksum leaves the payload out.
    """

    __slots__ = ("_bytes", "_header", "_stream")

    def __init__(self, payload_bytes: int, *, device: torch.device, stream: torch.cuda.Stream):
        """stream: for headers, so that they wait for nothing that is computed."""
        self._header, self._stream = gpu.pinned_bytes(HEADER_BYTES), stream
        super().__init__(self._header.numpy())
        self._bytes = torch.empty(HEADER_BYTES + payload_bytes, dtype=torch.uint8, device=device)
        self.payload = self._bytes[HEADER_BYTES:]  # type: ignore[assignment]
        self.sent = DeviceBytes(self._bytes)

    def seal(self, *message: Any, **fields: Any) -> Frame:
        """Write the header. The payload is finished; after this MPI may read the frame."""
        super().seal(*message, **fields)
        assert self.message is not None
        assert self.message.flags & FLAG_HEADER_ONLY, "the payload is not on the host"
        with torch.cuda.stream(self._stream):
            self._bytes[:HEADER_BYTES].copy_(self._header, non_blocking=True)
        self._stream.synchronize()
        return self


def pinned_frame(payload_bytes: int) -> Frame:
    """A frame on the host, page-locked."""
    return Frame(aligned_bytes(HEADER_BYTES + payload_bytes, lambda size: gpu.pinned_bytes(size).numpy()))


def frame_maker(setup: Setup, x: Tensor) -> Callable[[int], Frame]:
    """How to make the frames of uploads that are encoded of vectors like x."""
    if not x.is_cuda:
        return new_frame
    if not stays_on_device(setup):
        return pinned_frame
    return partial(DeviceFrame, device=x.device, stream=torch.cuda.Stream(x.device))


def stays_on_device(setup: Setup) -> bool:
    """Whether uploads of a rank on a GPU are sent from there."""
    return (
        setup.experiment.transport.device_buffers == "auto"
        and setup.checksum == "header"
        and setup.uplink.encodes_on_device
        and placement.gpu_aware() is True
    )
