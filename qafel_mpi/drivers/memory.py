"""What a run will hold in memory, by part, before its first step; and its refusal where a host has too little.

The parts are those of the tables in docs/sizes.md that every run fills: what only ranks that lag, or a checkpoint,
take comes on top.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from mpi4py import MPI

from qafel_mpi.config import ConfigError
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.room import free_bytes, in_words
from qafel_mpi.transport.broadcast import DOWN_SLOTS, LARGE_BYTES
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.transport.placement import Placement
from qafel_mpi.wire import HEADER_BYTES

HELD = 2  # vectors that are there already when a run is checked: x⁰ and the model
_MOMENTS = {"adam": 3, "amsgrad": 4}


@dataclass(frozen=True)
class Part:
    """So many bytes of one rank. settings: those that change them, beside the model."""

    what: str
    bytes: int
    settings: tuple[str, ...] = ()


def server_parts(setup: Setup, client_ranks: int) -> list[Part]:
    """Of rank 0. client_ranks: 0 on the virtual clock in one process."""
    e, vector = setup.experiment, _vector(setup)
    moments = _MOMENTS.get(e.server.optimizer, int(e.server.momentum > 0))
    because = "server.optimizer" if e.server.optimizer in _MOMENTS else "server.momentum"
    receives = e.transport.receives(client_ranks) if client_ranks else 0
    upload, broadcast = (_frame(codec.payload_bytes()) for codec in (setup.uplink, setup.downlink))
    return [
        _vectors(setup, 7),
        Part(f"{moments} of {because}", moments * vector, (because,)),
        Part(
            f"{receives} receives for uploads of {upload:,} bytes",
            receives * upload,
            ("transport.receive_slots", "uplink.codec", "uplink.bits"),
        ),
        Part("a broadcast", broadcast if client_ranks else 0, ("downlink.codec", "downlink.bits")),
    ]


def client_parts(setup: Setup) -> list[Part]:
    """Of a client rank, or a worker, which keeps no messages. Vectors on a GPU are not the host's."""
    e, vector = setup.experiment, _vector(setup)
    on_host = setup.task.device.type == "cpu"
    if e.clock.kind == "virtual":
        return [_vectors(setup, 5 if on_host else HELD)]
    largest = max(setup.downlink.payload_bytes(), 0 if setup.assigns else setup.full.payload_bytes())
    slots = 2 if largest >= LARGE_BYTES else DOWN_SLOTS
    uploads = e.transport.upload_frames
    moments = 2 if e.client.optimizer == "adamw" else int(e.client.momentum > 0)
    more = moments + int(e.transport.progress == "thread") + int(e.server.update == "model")
    because = ("client.optimizer", "client.momentum", "transport.progress", "server.update")
    return [
        _vectors(setup, 5 if on_host else HELD),
        Part(
            f"{more} of {', '.join(because[:-1])} and {because[-1]}",
            more * vector if on_host else 0,
            because,
        ),
        Part(f"{slots} receives for broadcasts", slots * _frame(largest), ("downlink.codec",)),
        Part(
            f"{uploads} uploads under way",
            uploads * _frame(setup.uplink.payload_bytes()),
            ("transport.upload_frames", "uplink.codec", "uplink.bits"),
        ),
    ]


def refuse_what_does_not_fit(setup: Setup, comm: MPI.Intracomm, place: Placement) -> None:
    """Collective: ConfigError on every rank alike where the ranks of a host need more than it has left."""
    client_ranks = comm.size - 1
    parts = server_parts(setup, client_ranks) if comm.rank == 0 else client_parts(setup)
    mine = {
        "rank": comm.rank,
        "host": place.host,
        "free": free_bytes(),
        "held": HELD * _vector(setup),
        "parts": [asdict(part) for part in parts if part.bytes],
    }
    everyone = [json.loads(text) for text in gather_text(comm, json.dumps(mine))]
    if refusal := broadcast_text(comm, _refusal(everyone, setup.experiment.task.model)):
        raise ConfigError([refusal])


def _refusal(everyone: Sequence[dict], model: str) -> str:
    """Of the first host with too little, in words; empty where all is well, and but on rank 0."""
    for host in dict.fromkeys(rank["host"] for rank in everyone):
        ranks = [rank for rank in everyone if rank["host"] == host]
        needed = sum(part["bytes"] for rank in ranks for part in rank["parts"])
        free = min(rank["free"] for rank in ranks)
        if needed - sum(rank["held"] for rank in ranks) > free:
            return (
                f"this run needs {in_words(needed)} of memory on {host}, and {in_words(free)} are free there. "
                f"{'; '.join(_of_ranks(ranks))}. Take a smaller model than task.model = {model!r}, or fewer ranks a "
                f"host, or change {_settings(ranks)}"
            )
    return ""


def _of_ranks(ranks: Sequence[dict]) -> list[str]:
    """A text for rank 0, and one for all others, which need the same."""
    clients = [rank for rank in ranks if rank["rank"]]
    named = [("rank 0", rank) for rank in ranks if not rank["rank"]]
    named += [(f"each of {len(clients)} client ranks", clients[0])] if clients else []
    return [
        f"{name}: " + ", ".join(f"{part['what']} {in_words(part['bytes'])}" for part in rank["parts"])
        for name, rank in named
    ]


def _settings(ranks: Sequence[dict]) -> str:
    """Of the largest parts that have any, three at most."""
    parts = sorted((part for rank in ranks for part in rank["parts"]), key=lambda part: -part["bytes"])
    names = dict.fromkeys(name for part in parts for name in part["settings"])
    return ", ".join([*names][:3]) or "task.dtype"


def _vectors(setup: Setup, number: int) -> Part:
    elements = setup.task.layout.elements
    return Part(f"{number} vectors of {elements:,} parameters", number * _vector(setup))


def _vector(setup: Setup) -> int:
    return setup.task.layout.elements * setup.x0.element_size()


def _frame(payload_bytes: int) -> int:
    return HEADER_BYTES + payload_bytes
