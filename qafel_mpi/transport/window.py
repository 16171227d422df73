"""Arrays that lie once in a host's memory: a shared MPI window that one rank fills and all ranks of the host read.

Where MPI gives no window each rank gets a copy of its own, sent by the rank that made the arrays.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, Self, cast

import numpy as np
from mpi4py import MPI

from qafel_mpi.transport.exchange import broadcast_text

Arrays = dict[str, np.ndarray]
Wait = Callable[
    [Callable[[], bool], Callable[[], str]], None
]  # until the first holds; the second says what for

ALIGNMENT = 64  # of an array in a window: a cache line
PART_BYTES = 1 << 30  # of a copy, sent at once
SHARED_MEMORY = "/dev/shm"  # where Linux, and so MPI, keeps it
SPARE_BYTES = 64 << 20  # there, for MPI itself


class MadeElsewhereError(Exception):
    """The host's first rank could not make the arrays; kind: the type of its error."""

    def __init__(self, kind: str, text: str):
        super().__init__(text)
        self.kind = kind


class HostArrays:
    """Collective over the ranks of a host, in the same order on each of them.

    why_not: why each rank has a copy of its own; empty where the arrays are in a window.
    """

    def __init__(self, comm: MPI.Intracomm, wait: Wait, *, share: bool = True):
        """share: False gives each rank a copy without asking MPI for a window."""
        self._host = cast("MPI.Intracomm", comm.Split_type(MPI.COMM_TYPE_SHARED, key=comm.rank))
        self._wait, self._share = wait, share
        self._windows: list[MPI.Win] = []
        self.why_not = ""
        self.leave_open = False  # a rank that has died does not close with the others: MPI_Finalize does it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        """Where something has failed, the other ranks might never come to close with this one."""
        if failure is None and not self.leave_open:
            self.close()

    def once(self, make: Callable[[], Arrays]) -> Arrays:
        """make() on the host's first rank; its arrays, read-only, on every rank.

        Raises on the first rank what make raises, and MadeElsewhereError on the others.
        """
        made, failure = self._made(make)
        plan = json.loads(broadcast_text(self._host, json.dumps(_plan(made, failure))))
        if failure is not None:
            raise failure
        if "error" in plan:
            raise MadeElsewhereError(**plan["error"])
        if self._host.size == 1:
            return {name: _read_only(array) for name, array in made.items()}
        room = self._window(plan["bytes"]) if self._share else None
        arrays = {}
        for name, dtype, shape, begin in plan["arrays"]:
            own = made.pop(
                name, None
            )  # of a large data set the first rank holds no more twice than one array
            array = _slot(room, dtype, shape, begin)
            if own is not None:
                array[...] = own
            if room is None:
                self._send(array)
            arrays[name] = _read_only(array)
        if room is not None:
            self._windows[-1].Fence()  # what the first rank has written is there for all
        return arrays

    def close(self) -> None:
        """Give the windows back: nobody may look at their arrays any more."""
        for window in self._windows:
            window.Fence(MPI.MODE_NOSUCCEED)
            window.Free()
        self._windows.clear()
        self._host.Free()

    def _made(self, make: Callable[[], Arrays]) -> tuple[Arrays, Exception | None]:
        """What make() gives or raises, on the first rank; the others wait for it, and nobody else may."""
        made: Arrays = {}
        failure: Exception | None = None
        if self._host.rank == 0:
            try:
                made = dict(make())
            except Exception as error:
                failure = error
        speaks = self._host.rank == 1
        self._wait(
            self._host.Ibarrier().Test,
            lambda: "the first rank of its host to load the data" if speaks else "",
        )
        return made, failure

    def _window(self, size: int) -> np.ndarray | None:
        """(size,) uint8 that all ranks of the host see; None where there is none to be had."""
        if why := broadcast_text(self._host, _no_room(size) if self._host.rank == 0 else ""):
            self.why_not = why
            return None
        window, memory, why = None, None, ""
        try:
            window = MPI.Win.Allocate_shared(size if self._host.rank == 0 else 0, 1, comm=self._host)
            memory, _ = window.Shared_query(0)
        except (MPI.Exception, NotImplementedError) as error:
            why = f"MPI gives no shared window: {error}"
        failed = np.zeros(1, np.int32)
        self._host.Allreduce(np.array([bool(why)], np.int32), failed, MPI.MAX)
        if failed[0] or window is None or memory is None:
            self.why_not = why or "MPI gives other ranks of this host no shared window"
            return None
        window.Fence()
        self._windows.append(window)
        return np.asarray(memory)[:size].view(np.uint8)

    def _send(self, array: np.ndarray) -> None:
        """The first rank's array into the others' own."""
        content = array.reshape(-1).view(np.uint8)
        for begin in range(0, content.size, PART_BYTES):
            self._host.Bcast([content[begin : begin + PART_BYTES], MPI.BYTE], 0)


def _plan(made: Arrays, failure: Exception | None) -> dict[str, Any]:
    """Where in a window each array lies, and how long that is; or what went wrong."""
    if failure is not None:
        return {"error": {"kind": type(failure).__name__, "text": str(failure)}}
    arrays, end = [], 0
    for name, array in made.items():
        arrays.append((name, array.dtype.str, array.shape, end))
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return {"arrays": arrays, "bytes": end}


def _slot(room: np.ndarray | None, dtype: str, shape: list[int], begin: int) -> np.ndarray:
    """An array in the window, or of a rank's own."""
    if room is None:
        return np.empty(shape, dtype)
    array = np.ndarray(shape, dtype, buffer=room, offset=begin)
    return array


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False
    return view


def _no_room(size: int) -> str:
    """Why a window of this size would not fit: some libraries find out only when it is written, and are killed."""
    try:
        found = os.statvfs(SHARED_MEMORY)
    except OSError:  # kept elsewhere: the library knows
        return ""
    left = found.f_bavail * found.f_frsize
    if size + SPARE_BYTES <= left:
        return ""
    return f"{SHARED_MEMORY} has {left / 1e6:,.0f} MB left, and the data take {size / 1e6:,.0f} MB"
