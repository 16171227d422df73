"""Runs whose clients compute on a (pretended) GPU: the same bytes, the same model, nothing left unfinished."""

import h5py
import numpy as np
import pytest
import torch
from mpi4py import MPI

from qafel_mpi.drivers import device_frames
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.device_frames import DeviceBytes, DeviceFrame
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.transport import placement
from qafel_mpi.transport.frames import Sends
from qafel_mpi.transport.inbox import Inbox
from qafel_mpi.wire import HEADER_BYTES, Expected, Kind, check, without_payload_checksum
from tests.pretended_gpu import HOST, OnGpu, Stream, Watched, count_afresh, pretend

SETTINGS = {
    "qsgd": (),
    "affine": ("uplink.codec=affine",),
    "zstd": ("uplink.entropy=zstd", "downlink.entropy=zstd"),
    "identity": ("uplink.codec=identity", "downlink.mode=none"),
    "errors": ("trace.encoding_error=true",),
    "thread": ("transport.progress=thread",),
    "one frame": ("transport.upload_frames=1",),
    "unicast": ("downlink.delivery=unicast", "downlink.mode=direct"),
}
HEADER_ONLY = "transport.checksum=header"


@pytest.fixture(autouse=True)
def no_other_gpu(monkeypatch):
    """Where there is a real one, these tests leave it alone."""
    for driver in (wall, virtual):
        monkeypatch.setattr(driver, "visible_gpus", lambda: ())


@pytest.fixture
def digits(digits):
    """With gradients that may be clipped: such trainings of the bundled mlp are torch's on any device."""
    return lambda *overrides: digits("client.clip_norm=1000", *overrides)


def on_gpus(comm: MPI.Intracomm, monkeypatch: pytest.MonkeyPatch, *, aware: bool = False) -> None:
    """From here on ranks other than 0 compute on a pretended GPU. aware: MPI takes its buffers."""

    def where_trained(setup: Setup, x: torch.Tensor) -> torch.Tensor:
        count_afresh()  # its last call makes the client, after the warm-up
        return x.as_subclass(OnGpu)

    if comm.rank > 0:
        pretend(monkeypatch)
        monkeypatch.setattr(Setup, "where_trained", where_trained)
    monkeypatch.setattr(placement, "gpu_aware", lambda: aware)


def rounds(comm: MPI.Intracomm, *more: str) -> list[str]:
    """Settings under which the model does not depend on which client is fast: at most two, in synchronous rounds."""
    return ["server.synchronous=true", f"server.buffer_size={comm.size - 1}", "stop.uploads=12", *more]


def sent_updates(path) -> np.ndarray:
    """The clients' rows of their uploads."""
    with h5py.File(path) as file:
        rows = file["messages"][:]
    return rows[(rows["end"] == 0) & (rows["kind"] == Kind.UPDATE)]


def run(comm: MPI.Intracomm, path, experiment) -> str:
    """Collective. The digest of the model."""
    return wall.run(experiment, comm, path).x_digest


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2, max_size=3)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_on_gpus_ends_with_the_model_of_a_run_on_cpus(comm, folder, digits, monkeypatch, name):
    settings = SETTINGS[name]
    if name == "unicast":  # a download is the start of a client's next training: no rounds
        settings = (*settings, "server.synchronous=false", f"server.buffer_size={comm.size - 1}")
    experiment = digits(*rounds(comm), *settings, HEADER_ONLY)
    found = [run(comm, folder / "cpu.h5", experiment)]
    with monkeypatch.context() as patch:
        on_gpus(comm, patch)
        found.append(run(comm, folder / "gpu.h5", experiment))
        counts = comm.allgather((Watched.begun, Watched.finished))
    with monkeypatch.context() as patch:
        on_gpus(comm, patch, aware=True)
        made = []
        original = DeviceFrame.__init__
        patch.setattr(
            DeviceFrame, "__init__", lambda self, n, **more: made.append(n) or original(self, n, **more)
        )
        found.append(run(comm, folder / "aware.h5", experiment))
        from_device = comm.allgather(len(made))
    if name != "unicast" or comm.size == 2:
        assert len(set(found)) == 1, found
    assert all(begun == finished for begun, finished in counts)
    sent = np.bincount(sent_updates(folder / "gpu.h5")["src"] - 1, minlength=comm.size - 1).tolist()
    assert [begun for begun, _ in counts[1:]] == sent
    assert all((n > 0) == (name != "zstd") for n in from_device[1:])


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    "settings", [("transport.checksum=full",), ("transport.progress=thread",), (HEADER_ONLY,)]
)
def test_an_update_is_encoded_beside_the_next_training_and_none_is_left_over(
    comm, folder, digits, monkeypatch, settings
):
    on_gpus(comm, monkeypatch, aware=True)
    experiment = digits(*settings, "task.clients=ranks", "client.local_epochs=4", "stop.uploads=24")
    summary = wall.run(experiment, comm, folder / "a.h5")
    counts = comm.allgather((Watched.begun, Watched.finished, Watched.waited, OnGpu.crossed))
    rows = comm.bcast(sent_updates(folder / "a.h5") if comm.rank == 0 else None)
    with h5py.File(folder / "a.h5") as file:
        assert len(set(file["ranks"]["x_hat_digest"])) == 1
    assert summary.dropped_messages == 0
    assert summary.uploads == len(rows) >= 8
    for client in range(comm.size - 1):
        begun, finished, waited, crossed = counts[client + 1]
        own = np.sort(rows[rows["client"] == client], order="sequence")
        assert begun == finished
        assert own["sequence"].tolist() == list(range(len(own)))
        assert (own["t_encode_begin"] <= own["t_encode_end"]).all()
        assert (own["t_encode_end"] <= own["t_post"]).all()
        # The stand-in's events are late: what is posted at all was looked for again and again, not waited for.
        assert waited == 0
        assert crossed == 1  # the hidden state, for its digest at the end


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("aware", [False, True])
def test_a_frame_on_a_device_is_on_the_wire_as_one_on_the_host(comm, aware):
    payload = np.random.default_rng(1).integers(0, 256, 1000, dtype=np.uint8)
    described = without_payload_checksum(
        {Kind.UPDATE: Expected(codec=2, bits=4, elements=1900, payload_bytes=1000)}
    )
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        inbox = Inbox(comm, 5, payload_bytes=1000, slots=2, source=0) if comm.rank == 1 else None
        if comm.rank == 0:
            frame = (
                DeviceFrame(1000, device=HOST, stream=Stream(HOST))
                if aware
                else device_frames.pinned_frame(1000)
            )
            sends = Sends(comm, 5, peer=1)
            for sequence in range(2):  # a persistent request reads what lies there when it is started
                frame.payload[:] = torch.from_numpy(payload + sequence) if aware else payload + sequence
                frame.seal(
                    Kind.UPDATE, payload_bytes=1000, expected=described[Kind.UPDATE], sequence=sequence
                )
                sends.post(frame, 1)
                while not sends.poll():
                    pass
            sends.close()
        messages = []
        while inbox is not None and len(messages) < 2:
            for received in inbox.poll():
                message = check(received.data, described, rank=0)
                messages.append((message.sequence, received.payload.tobytes()))
                inbox.release(received.slot)
        if inbox is not None:
            inbox.close()
    wanted = [(sequence, (payload + sequence).tobytes()) for sequence in range(2)]
    assert comm.bcast(messages, 1) == wanted


@pytest.mark.mpi(min_size=2)
@pytest.mark.skipif(
    not (torch.cuda.is_available() and placement.gpu_aware()),
    reason="needs a GPU, and an MPI library that takes its buffers",
)
def test_mpi_sends_from_a_gpu(comm):
    device = torch.device("cuda", torch.cuda.current_device())
    described = without_payload_checksum({Kind.UPDATE: Expected(codec=2, bits=4, payload_bytes=100_000)})
    payload = np.random.default_rng(1).integers(0, 256, 100_000, dtype=np.uint8)
    found = np.zeros(HEADER_BYTES + payload.size, np.uint8)
    if comm.rank == 0:
        frame = DeviceFrame(payload.size, device=device, stream=torch.cuda.Stream(device))
        frame.payload.copy_(torch.from_numpy(payload))
        torch.cuda.synchronize()
        sends = Sends(comm, 6, peer=1)
        sends.post(frame.seal(Kind.UPDATE, payload_bytes=payload.size, expected=described[Kind.UPDATE]), 1)
        while not sends.poll():
            pass
        sends.close()
    if comm.rank == 1:
        comm.Recv([found, MPI.BYTE], 0, 6)
        check(found.data, described, rank=0)
    assert (comm.bcast(found, 1)[HEADER_BYTES:] == payload).all()


@pytest.mark.mpi(min_size=2)
def test_mpi_takes_what_has_the_cuda_array_interface(comm):
    """Without a GPU, and without support for one, a pointer to the host's memory is as good."""
    bytes_ = torch.arange(HEADER_BYTES, dtype=torch.uint8)
    found = np.zeros(32, np.uint8)
    if comm.rank == 0:
        comm.Issend([DeviceBytes(bytes_)[16:48], MPI.BYTE], 1, 3).Wait()
    if comm.rank == 1:
        comm.Recv([found, MPI.BYTE], 0, 3)
    assert comm.bcast(found.tolist(), 1) == list(range(16, 48))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("aware", [False, True])
def test_virtual_workers_on_gpus_give_the_model_of_one_process(comm, folder, digits, monkeypatch, aware):
    """A batch's updates are all begun before the first is waited for, and sent from the device where MPI can."""
    experiment = digits("clock.kind=virtual", "clock.concurrency=10", "client.together=4", HEADER_ONLY)
    alone = virtual.run(experiment, None, folder / "alone.h5").x_digest if comm.rank == 0 else ""
    on_gpus(comm, monkeypatch, aware=aware)
    made = []
    original = DeviceFrame.__init__
    monkeypatch.setattr(
        DeviceFrame, "__init__", lambda self, n, **more: made.append(n) or original(self, n, **more)
    )
    together = virtual.run(experiment, comm, folder / "a.h5").x_digest
    assert comm.bcast(alone) == together
    counts = comm.allgather((Watched.begun, Watched.most, bool(made)))
    assert sum(begun for begun, _, _ in counts) >= 40
    assert max(most for _, most, _ in counts) > 1
    assert {made for begun, _, made in counts[1:] if begun} == {aware}, "of the workers that got a batch"
