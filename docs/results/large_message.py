"""A message above 2^31 − 1 bytes between two ranks, by the classes that a run sends with; and what memory it takes.

mpirun -n 2 python -m docs.results.large_message PART ELEMENTS OUT.json

PART: upload, as FedBuff's from rank 1 to rank 0; or a broadcast from rank 0, fanout, tree or ibcast. A message is
ELEMENTS float32: encoded, sealed, sent, checked, decoded, and each element compared. Of each rank
`messages` is the peak of its memory beyond what it had before and its vector, in messages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import torch
from mpi4py import MPI
from qafel_analysis.commands.record import write
from qafel_analysis.read import sources

from qafel_mpi import wire
from qafel_mpi.bench.peers.runner import peak_bytes
from qafel_mpi.codecs import Layout
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.drivers.provenance import provenance
from qafel_mpi.transport import broadcast as broadcasts
from qafel_mpi.transport.config import TransportConfig
from qafel_mpi.transport.frames import Frame, Sends, new_frame
from qafel_mpi.transport.inbox import Inbox, Received

TAG, AT_ONCE = 29, 1 << 20
PARTS = ("upload", *broadcasts.ALGORITHMS)


def expected(first: int, last: int) -> torch.Tensor:
    """These elements of the vector."""
    return (torch.arange(first, last, dtype=torch.int32) % 65_521).float()


def vector(d: int) -> torch.Tensor:
    x = torch.empty(d)
    for first in range(0, d, AT_ONCE):
        x[first : first + AT_ONCE] = expected(first, min(d, first + AT_ONCE))
    return x


def differing(x: torch.Tensor) -> int:
    """Elements that are not as they were sent."""
    pieces = range(0, len(x), AT_ONCE)
    return sum(int((x[i : i + AT_ONCE] != expected(i, min(len(x), i + AT_ONCE))).sum()) for i in pieces)


def until(done: Callable[[], object]) -> None:
    while not done():
        pass


def encoded(frame: Frame, codec: Identity, kind: wire.Kind, x: torch.Tensor, about: wire.Expected) -> Frame:
    size = codec.encode(x, frame.payload, 0)
    return frame.seal(kind, expected=about, payload_bytes=size)


def taken(received: Received, kind: wire.Kind, codec: Identity, about: wire.Expected) -> torch.Tensor:
    """Checked and decoded."""
    out = torch.empty(codec.layout.elements)
    wire.check(received.data, {kind: about}, rank=received.source)
    codec.decode(received.payload, out, 0)
    return out


def upload(comm: MPI.Intracomm, codec: Identity, about: wire.Expected) -> int:
    if comm.rank == 1:
        x, sends = vector(codec.layout.elements), Sends(comm, TAG, peer=0)
        frame = encoded(new_frame(codec.payload_bytes()), codec, wire.Kind.UPDATE, x, about)
        sends.post(frame, 0)
        until(sends.poll)
        sends.close()
        return 0
    inbox = Inbox(comm, TAG, payload_bytes=codec.payload_bytes(), slots=1, source=1)
    arrived: list[Received] = []
    while not arrived:
        arrived = inbox.poll()
    wrong = differing(taken(arrived[0], wire.Kind.UPDATE, codec, about))
    inbox.close()
    return wrong


def broadcast(comm: MPI.Intracomm, codec: Identity, about: wire.Expected, algorithm: str) -> int:
    config, size = (
        TransportConfig.model_validate({"broadcast": algorithm, "queue_limit": 1}),
        codec.payload_bytes(),
    )
    if comm.rank == 0:
        root = broadcasts.root(config, comm, TAG, payload_bytes=size, log_length=1, catch_up=None)
        x = vector(codec.layout.elements)
        root.publish(encoded(root.frame(), codec, wire.Kind.BROADCAST, x, about))
        until(lambda: root.poll() is None or root.idle)
        root.end(root.version)
        until(lambda: root.poll() is None or root.idle)
        root.close()
        return 0
    leaf = broadcasts.leaf(config, comm, TAG, payload_bytes=size, catch_up_bytes=0, slots=1)
    wrong, stopped = -1, False
    while not stopped or not leaf.idle:
        leaf.passed()
        for received in leaf.poll():
            message = wire.check(
                received.data, {wire.Kind.BROADCAST: about, wire.Kind.STOP: leaf.stop}, rank=received.source
            )
            leaf.pass_on(received, message)
            stopped = message.kind == wire.Kind.STOP
            if not stopped:
                wrong = differing(taken(received, wire.Kind.BROADCAST, codec, about))
            leaf.release(received.slot)
    leaf.close()
    return wrong


def main(part: str, d: int, out: Path) -> None:
    comm = MPI.COMM_WORLD
    codec = Identity(Layout(("weight",), ((d,),)))
    about = wire.Expected(codec.id, codec.bits, codec.flags, d, codec.payload_bytes())
    before = peak_bytes()
    comm.Barrier()
    begun_s = perf_counter()
    wrong = upload(comm, codec, about) if part == "upload" else broadcast(comm, codec, about, part)
    comm.Barrier()
    seconds = perf_counter() - begun_s
    more = (peak_bytes() - before) / codec.payload_bytes() - 1
    everyone = comm.gather((wrong, more), 0)
    if everyone is None:
        return
    found = {
        "part": part,
        "elements": d,
        "message_bytes": codec.payload_bytes(),
        "seconds": seconds,
        "wrong": sum(each[0] for each in everyone),
        "messages": [each[1] for each in everyone],
    }
    command = ["mpirun", "-n", "2", "python", "-m", "docs.results.large_message", part, str(d), str(out)]
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, "large_message", found, [sources.of_bench(provenance(command))])
    print(found)


if __name__ == "__main__":
    main(sys.argv[1], int(float(sys.argv[2])), Path(sys.argv[3]))
