"""What a run will hold in memory, by part; and its refusal before its first step where a host or GPU has too little.

The parts are those of the tables in docs/sizes.md: what any rank may come to hold, but for what ranks that lag take.
What clients keep from one training to the next, and a checkpoint's copies, are there later in a run, and count too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from mpi4py import MPI

from qafel_mpi.config import ConfigError
from qafel_mpi.drivers.build import Setup, visible_gpus
from qafel_mpi.drivers.room import free_bytes, gpu_free_bytes, in_words
from qafel_mpi.drivers.wall.population import hosting_of
from qafel_mpi.schedule.events import in_training
from qafel_mpi.transport.broadcast import DOWN_SLOTS, LARGE_BYTES
from qafel_mpi.transport.exchange import broadcast_text, gather_text
from qafel_mpi.transport.placement import Placement
from qafel_mpi.wire import HEADER_BYTES

# Vectors that the optimizer holds and, of these, those that a checkpoint takes.
_MOMENTS = {"adam": (3, 2), "amsgrad": (4, 3)}
_NO_CHECKPOINTS = "--checkpoint-every never"


@dataclass(frozen=True)
class Part:
    """So many bytes of one rank. settings: those that change them, beside the model. there: bytes of it that are held
    already when a run is checked."""

    what: str
    bytes: int
    settings: tuple[str, ...] = ()
    there: int = 0
    on_gpu: bool = False


def server_parts(setup: Setup, client_ranks: int, *, checkpoints: bool = True) -> list[Part]:
    """Of rank 0. client_ranks: 0 on the virtual clock in one process, which trains, too."""
    e, vector, alone = setup.experiment, _vector(setup), not client_ranks
    (moments, saved), because = _moments(setup)
    receives = 0 if alone else e.transport.receives(client_ranks)
    copied = 3 + saved + int(e.server.calibration == "clients")  # x, x̂ and the buffer
    upload, broadcast = (_frame(codec.payload_bytes()) for codec in (setup.uplink, setup.downlink))
    return [
        # x, x̂, the buffer, and x⁰; the model and its gradient.
        *_vectors(setup, 4, 2 + (_updates(setup) if alone else 0)),
        Part(f"{moments} of {because}", moments * vector, (because,)),
        Part("vectors for a moment", _aside(setup), ("uplink.codec", "downlink.codec")),
        Part(
            f"{receives} receives for uploads of {upload:,} bytes",
            receives * upload,
            ("transport.receive_slots", "uplink.codec", "uplink.bits"),
        ),
        Part("a broadcast", 0 if alone else broadcast, ("downlink.codec", "downlink.bits")),
        *(_of_training(setup) if alone else []),
        *_uploads_before_their_time(setup, checkpoints),
        *_last_updates(setup, checkpoints),
        *_kept(setup, setup.clients, checkpoints, live_here=alone),
        Part("a copy of the server for a checkpoint", copied * vector * checkpoints, (_NO_CHECKPOINTS,)),
    ]


def client_parts(setup: Setup, clients: int = 0, *, checkpoints: bool = True) -> list[Part]:
    """Of a client rank, or a worker, which keeps no messages. clients: those that live there."""
    e = setup.experiment
    own = [
        *_vectors(setup, 1, 3 + _updates(setup)),  # x⁰; x̂, the model, its gradient, and updates
        *_of_training(setup),
        *_kept(setup, clients, checkpoints, live_here=True),
    ]
    if e.clock.kind == "virtual":
        return own
    largest = max(setup.downlink.payload_bytes(), 0 if setup.assigns else setup.full.payload_bytes())
    slots = 2 if largest >= LARGE_BYTES else DOWN_SLOTS
    uploads = e.transport.upload_frames
    return [
        *own,
        Part(f"{slots} receives for broadcasts", slots * _frame(largest), ("downlink.codec",)),
        Part(
            f"{uploads} uploads under way",
            uploads * _frame(setup.uplink.payload_bytes()),
            ("transport.upload_frames", "uplink.codec", "uplink.bits"),
        ),
    ]


# --- the parts ------------------------------------------------------------------------------------


def _vectors(setup: Setup, on_host: int, of_training: int) -> list[Part]:
    """of_training: those that lie where it trains. x⁰ and the model are there already."""
    vector, name = _vector(setup), f"vectors of {setup.task.layout.elements:,} parameters"
    if not _on_gpu(setup):
        number = on_host + of_training
        return [Part(f"{number} {name}", number * vector, there=2 * vector)]
    return [
        Part(f"{on_host} {name}", on_host * vector, there=vector),
        Part(f"{of_training} {name}", of_training * vector, there=vector, on_gpu=True),
    ]


def _updates(setup: Setup) -> int:
    """Vectors y_P − y_0. On a GPU of the wall clock one is encoded while the next is trained."""
    if setup.experiment.clock.kind == "virtual":
        return setup.task.together
    return 2 if _on_gpu(setup) else 1


def _of_training(setup: Setup) -> list[Part]:
    """What settings ask for in vectors where it trains."""
    e, vector = setup.experiment, _vector(setup)
    moments = 2 if e.client.optimizer == "adamw" else int(e.client.momentum > 0)
    threaded = e.clock.kind == "wall" and e.transport.progress == "thread"
    more = moments + int(threaded) + int(e.server.update == "model")
    because = ("client.optimizer", "client.momentum", "transport.progress", "server.update")
    name = f"{more} of {', '.join(because[:-1])} and {because[-1]}"
    return [
        Part(name, more * vector, because, on_gpu=_on_gpu(setup)),
        Part("3 of server.pull", 3 * vector * setup.pull, ("server.pull",), on_gpu=_on_gpu(setup)),
    ]


def _moments(setup: Setup) -> tuple[tuple[int, int], str]:
    """The server optimizer's vectors, as _MOMENTS has them, and the setting that they come from."""
    server = setup.experiment.server
    if server.optimizer in _MOMENTS:
        return _MOMENTS[server.optimizer], "server.optimizer"
    return (int(server.momentum > 0),) * 2, "server.momentum"


def _aside(setup: Setup) -> int:
    """Of rank 0: x − x̂ where no kernels step in one pass; an update whose norm is looked at, or that is decoded near
    x; one that is checked; and what comes of sums in a basis of the codec's own."""
    e, up, vector = setup.experiment, setup.uplink, _vector(setup)
    looked_at = e.server.clip_norm is not None or e.server.reject_norm is not None
    difference = not setup.unicast and not setup.assigns and not setup.downlink.steps_in_one_pass(False)
    turned = up.sum_elements * setup.x0.element_size() if up.own_sums else 0
    number = int(difference) + int(looked_at or setup.pull) + int(not up.decodes_finite)
    return number * vector + turned


def _uploads_before_their_time(setup: Setup, checkpoints: bool) -> list[Part]:
    """On the virtual clock rank 0 has the uploads of all that train, long before they finish in virtual time."""
    e = setup.experiment
    if e.clock.kind != "virtual" or e.server.pull:
        return []
    number = _in_training(setup)
    settings = ("clock.concurrency", "uplink.codec", "uplink.bits")
    what, size = f"uploads of {number:,} clients that train", number * setup.uplink.payload_bytes()
    return [Part(what, size, settings), *_copies("these uploads", size, settings, checkpoints)]


def _last_updates(setup: Setup, checkpoints: bool) -> list[Part]:
    """CA²FL's: the last payload of each client, their mean, and the step's direction."""
    if setup.experiment.server.calibration != "clients":
        return []
    clients = min(setup.clients, _most_that_upload(setup))
    settings = ("task.clients", "server.calibration", "uplink.bits")
    what, size = f"the last updates of {clients:,} clients", clients * setup.uplink.payload_bytes()
    return [
        Part("2 of server.calibration", 2 * _vector(setup), ("server.calibration",)),
        Part(what, size, settings),
        *_copies("these updates", size, settings, checkpoints),
    ]


def _kept(setup: Setup, clients: int, checkpoints: bool, *, live_here: bool) -> list[Part]:
    """What so many clients keep: a model of their own, or a residual. Rank 0 gathers it for a checkpoint."""
    if not setup.kept or not clients:
        return []
    clients = min(clients, _most_that_upload(setup))
    feedback = setup.feedback()
    if feedback is None:
        what, each = "models", _vector(setup)
        settings: tuple[str, ...] = ("task.clients", "server.pull")
    else:
        settings = ("task.clients", "client.error_bits", "client.error_feedback")
        what, each = "residuals", feedback.client_bytes
    what, size = f"the {what} of {clients:,} clients", clients * each
    there = Part(what, size if live_here else 0, settings, on_gpu=feedback is None and _on_gpu(setup))
    return [there, *_copies(what, size, settings, checkpoints)]


def _copies(what: str, size: int, settings: tuple[str, ...], checkpoints: bool) -> list[Part]:
    """What a checkpoint holds at its most: rows that were gathered, and a copy that it is written from."""
    return [
        Part(f"2 copies of {what} for a checkpoint", 2 * size, (_NO_CHECKPOINTS, *settings))
    ] * checkpoints


def _in_training(setup: Setup) -> int:
    e = setup.experiment
    return in_training(
        e.clock, clients=setup.clients, buffer_size=e.server.buffer_size, synchronous=e.server.synchronous
    )


def _most_that_upload(setup: Setup) -> int:
    """Clients that have sent, or on the virtual clock trained, at the end of the run, at most."""
    e = setup.experiment
    if e.stop.uploads is None or (
        e.server.pull and e.clock.kind == "wall"
    ):  # there all train that are not asked
        return setup.clients
    return e.stop.uploads + (_in_training(setup) if e.clock.kind == "virtual" and not e.server.pull else 0)


def _on_gpu(setup: Setup) -> bool:
    return setup.task.device.type == "cuda"


# --- what does not fit ----------------------------------------------------------------------------


def refuse_what_does_not_fit(
    setup: Setup, comm: MPI.Intracomm, place: Placement, *, checkpoints: bool = True
) -> None:
    """Collective: ConfigError on every rank alike where the ranks of a host, or of a GPU, need more than it has left.

    checkpoints: the run writes some.
    """
    if comm.rank:
        parts = client_parts(setup, _clients_of(setup, comm), checkpoints=checkpoints)
    else:
        parts = server_parts(setup, comm.size - 1, checkpoints=checkpoints)
    memories = [_memory(comm.rank, place.host, free_bytes(), (part for part in parts if not part.on_gpu))]
    if _on_gpu(setup):
        assert place.gpu is not None, "the device comes from there"
        gpu = visible_gpus()[place.gpu]
        name = f"GPU {gpu.address or gpu.uuid} of {place.host}"
        memories.append(_memory(comm.rank, name, gpu_free_bytes(gpu.index), (p for p in parts if p.on_gpu)))
    everything = [memory for text in gather_text(comm, json.dumps(memories)) for memory in json.loads(text)]
    if refusal := broadcast_text(comm, _refusal(everything, setup.experiment.task.model)):
        raise ConfigError([refusal])


def _clients_of(setup: Setup, comm: MPI.Intracomm) -> int:
    """Clients that live on this rank and keep something."""
    if not setup.kept:
        return 0
    if setup.experiment.clock.kind == "virtual":
        return len(range(comm.rank - 1, setup.clients, comm.size - 1))
    return int(hosting_of(setup, comm.size).of(comm.rank - 1).size)


def _memory(rank: int, name: str, free: int, parts: Iterable[Part]) -> dict:
    """What one rank needs of one memory. name: of the memory, the same on every rank that shares it."""
    return {"rank": rank, "name": name, "free": free, "parts": [asdict(part) for part in parts if part.bytes]}


def _refusal(everything: Sequence[dict], model: str) -> str:
    """Of the first memory with too little, in words; empty where all is well, and but on rank 0."""
    for name in dict.fromkeys(memory["name"] for memory in everything):
        ranks = [memory for memory in everything if memory["name"] == name]
        parts = [part for rank in ranks for part in rank["parts"]]
        needed, there = (sum(part[column] for part in parts) for column in ("bytes", "there"))
        free = min(rank["free"] for rank in ranks)
        if needed - there > free:
            return (
                f"this run needs {in_words(needed)} of memory on {name}, and {in_words(free)} are free there. "
                f"{'; '.join(_of_ranks(ranks))}. Take a smaller model than task.model = {model!r}, or fewer ranks a "
                f"host, or change {_settings(ranks)}"
            )
    return ""


def _of_ranks(ranks: Sequence[dict]) -> list[str]:
    """A text for rank 0, and one for all others: of the one that needs most."""
    clients = [rank for rank in ranks if rank["rank"]]
    named = [("rank 0", rank) for rank in ranks if not rank["rank"]]
    if clients:
        most = max(clients, key=lambda rank: sum(part["bytes"] for part in rank["parts"]))
        named.append((f"each of {len(clients)} client ranks", most))
    return [
        f"{name}: " + ", ".join(f"{part['what']} {in_words(part['bytes'])}" for part in rank["parts"])
        for name, rank in named
    ]


def _settings(ranks: Sequence[dict]) -> str:
    """Of the largest parts that have any, three at most."""
    parts = sorted((part for rank in ranks for part in rank["parts"]), key=lambda part: -part["bytes"])
    names = dict.fromkeys(name for part in parts for name in part["settings"])
    return ", ".join([*names][:3]) or "task.dtype"


def _vector(setup: Setup) -> int:
    return setup.task.layout.elements * setup.x0.element_size()


def _frame(payload_bytes: int) -> int:
    return HEADER_BYTES + payload_bytes
