"""What a server that asks (server.pull) needs of the other settings."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any, Protocol

from qafel_mpi.algorithms.config import DownlinkConfig, ServerConfig
from qafel_mpi.tasks.config import TaskConfig


class Experiment(Protocol):
    """What is needed here of config.py's."""

    @property
    def server(self) -> ServerConfig: ...

    @property
    def downlink(self) -> DownlinkConfig: ...

    @property
    def task(self) -> TaskConfig: ...


# A setting, the values that go with server.pull, the first of them to be recommended, and why.
_NEEDED: tuple[tuple[str, tuple[Any, ...], str], ...] = (
    ("server.update", ("model",), "clients send their models"),
    ("downlink.mode", ("direct", "none"), "no state is shared"),
    ("downlink.delivery", ("unicast",), "a question goes to one client"),
    ("server.synchronous", (False,), "nobody waits for the end of a training"),
    ("server.quorum", (None,), "a step is made when all that were asked have answered"),
    ("server.calibration", ("none",), "clients send their models"),
    ("client.error_feedback", (False,), "clients send their models"),
    ("client.optimizer", ("sgd",), "a client may be asked after any step, and keeps its model alone"),
    ("client.momentum", (0.0,), "a client may be asked after any step, and keeps its model alone"),
    ("client.pause_seconds", (0.0,), "it is part of a whole training"),
    ("client.draw", ("uniform",), "the server draws the clients"),
    ("transport.progress", ("poll",), "a client answers between two steps"),
    ("transport.broadcast", ("fanout",), "there are no broadcasts"),
    ("clock.staleness", (None,), "the server decides when clients are asked"),
    ("clock.flush_epoch", (False,), "the server decides when clients are asked"),
    ("trace.encoding_error", (False,), "payloads are decoded near what the receiver has"),
)


def impossible_pulls(exp: Experiment) -> Iterator[str]:
    """Settings that do not go with server.pull, each with what to set."""
    if not exp.server.pull:
        return
    for key, fitting, why in _NEEDED:
        if (value := reduce(getattr, key.split("."), exp)) not in fitting:
            fix = f"set {key}={str(fitting[0]).lower()}" if fitting[0] is not None else "leave it out"
            yield f"{key} = {value!r} does not go with server.pull: {why}; {fix}"
    clients = exp.task.clients
    if clients != "ranks" and exp.server.buffer_size > clients:
        yield (
            f"server.buffer_size = {exp.server.buffer_size}: with server.pull so many different clients are asked, "
            f"and there are {clients} (task.clients)"
        )
