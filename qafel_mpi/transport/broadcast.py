"""Both ends of the broadcast of q^t, by the algorithm that transport.broadcast names.

Rank 0:   begin_at(version) where a run is resumed; frame(), publish(frame) where `ready`, poll() all the time,
          end(version) to STOP, until `idle`, close().
A client: poll(), check what came, pass_on(received, message) at once, apply it, release(slot); passed() all the time,
          until the STOP has come and all is `idle`, close().
"""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

from mpi4py import MPI

from qafel_mpi.transport.config import TransportConfig
from qafel_mpi.transport.fanout import Direct, FanOut
from qafel_mpi.transport.frames import Frame, FramePool, Sends
from qafel_mpi.transport.ibcast import Ibcast, Ring
from qafel_mpi.transport.tree import Branch, Tree

Root = FanOut | Tree | Ibcast
Leaf = Direct | Branch | Ring
DOWN_SLOTS = 4  # receives that a client keeps posted
LARGE_BYTES = 1 << 20  # of payload, from which on a client keeps two receives: one fills, one is applied
ALGORITHMS: tuple[str, ...] = get_args(TransportConfig.model_fields["broadcast"].annotation)


def root(
    config: TransportConfig,
    comm: MPI.Intracomm,
    tag: int,
    *,
    payload_bytes: int,
    log_length: int,
    catch_up: Callable[[Frame], Frame] | None,
    model_bytes: int = 0,
) -> Root:
    """Rank 0's end. payload_bytes: the most of a broadcast. What follows it is FanOut's; others skip nothing.

    With ibcast collective over comm: clients call leaf().
    """
    match config.broadcast:
        case "tree":
            return Tree(comm, tag, payload_bytes=payload_bytes, queue_limit=config.queue_limit)
        case "ibcast":
            return Ibcast(comm, payload_bytes=payload_bytes, queue_limit=config.queue_limit)
    return FanOut(
        Sends(comm, tag),
        FramePool(payload_bytes),
        range(1, comm.size - config.spares),
        spares=range(comm.size - config.spares, comm.size),
        queue_limit=config.queue_limit,
        log_length=log_length,
        catch_up=catch_up,
        model_bytes=model_bytes,
    )


def leaf(
    config: TransportConfig,
    comm: MPI.Intracomm,
    tag: int,
    *,
    payload_bytes: int,
    catch_up_bytes: int,
    slots: int,
) -> Leaf:
    """A client's end. catch_up_bytes: of a full state, which the fan-out alone sends. slots: at most."""
    match config.broadcast:
        case "tree":
            return Branch(comm, tag, payload_bytes=payload_bytes, slots=slots)
        case "ibcast":
            return Ring(comm, payload_bytes=payload_bytes, queue_limit=config.queue_limit)
    largest = max(payload_bytes, catch_up_bytes)
    return Direct(comm, tag, payload_bytes=largest, slots=slots if largest < LARGE_BYTES else min(slots, 2))
