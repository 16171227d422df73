"""Which frames a rank sends its updates in."""

from types import SimpleNamespace

import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.config import load
from qafel_mpi.drivers.device_frames import DeviceFrame, frame_maker, pinned_frame
from qafel_mpi.kernels.aligned import ALIGNMENT
from qafel_mpi.transport import placement
from qafel_mpi.transport.frames import new_frame
from qafel_mpi.wire import Expected, Kind
from tests.pretended_gpu import HOST, OnGpu, Stream, pretend

X = torch.zeros(100)
HEADER = "transport.checksum=header"


@pytest.mark.parametrize(
    ("settings", "codec", "aware", "on_device"),
    [
        ([HEADER], {"bits": 4}, True, True),
        ([HEADER], {"codec": "affine", "bits": 4}, True, True),
        (["transport.checksum=full"], {"bits": 4}, True, False),  # the checksum reads the payload
        ([HEADER], {"bits": 4}, False, False),
        ([HEADER], {"bits": 4}, None, False),  # the library can't be asked
        ([HEADER, "transport.device_buffers=false"], {"bits": 4}, True, False),
        ([HEADER], {"bits": 4, "entropy": "zstd"}, True, False),  # compressed on the host
        ([HEADER], {"codec": "randk", "fraction": 0.1}, True, False),
    ],
)
def test_a_payload_stays_on_the_device_where_nothing_reads_it_on_the_host(
    monkeypatch, settings, codec, aware, on_device
):
    pretend(monkeypatch)
    monkeypatch.setattr(placement, "gpu_aware", lambda: aware)
    experiment, built = load("digits", settings), build(CodecConfig(**codec), Layout(("v",), ((100,),)))
    setup = SimpleNamespace(experiment=experiment, uplink=built, checksum=experiment.transport.checksum)
    assert frame_maker(setup, X) is new_frame
    make = frame_maker(setup, X.as_subclass(OnGpu))
    assert isinstance(make(50), DeviceFrame) is on_device
    assert on_device or make is pinned_frame


def test_page_locked_frames_are_aligned_as_all_are(monkeypatch):
    pretend(monkeypatch)
    for size in (1, 1000, 4097):
        frame = pinned_frame(size)
        assert frame.payload.size == size
        assert frame.buffer.ctypes.data % ALIGNMENT == 0


def test_a_frame_on_the_device_refuses_a_checksum_that_covers_the_payload(monkeypatch):
    pretend(monkeypatch)
    frame = DeviceFrame(10, device=HOST, stream=Stream(HOST))
    with pytest.raises(AssertionError, match="not on the host"):
        frame.seal(Kind.UPDATE, payload_bytes=10, expected=Expected(elements=20, payload_bytes=10))
