"""Joules that a run has taken, by the machine's counters: RAPL for processors, NVML for GPUs. Nothing is estimated.

RAPL counts whole processor packages and their memory, whoever uses them; NVML counts a GPU since its driver was
loaded. What can't be read is not measured, with the reason.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

POWERCAP = Path("/sys/class/powercap")
LOOK_SECONDS = 20.0  # a package of 3 kW takes as long to fill the smallest of RAPL's counters, 65 kJ
NVML = "libnvidia-ml.so.1"
NOT_SUPPORTED = 3  # NVML's, of GPUs before Volta and of MIG's parts


class NotMeasured(Exception):
    """A counter that is not there or can't be read; the message says which and why."""


@dataclass(frozen=True)
class Counter:
    """A counter of joules. read: its state in `unit_j`; it begins again at 0 behind `largest`, where it has one."""

    name: str
    read: Callable[[], int]
    unit_j: float
    largest: int | None = None


def rapl(folder: Path | None = None) -> list[Counter]:
    """The packages of this host and the memory beside them. folder: the kernel's by default. Raises NotMeasured.

    A package's other parts (core, uncore) are in it already, psys contains the packages, and intel-rapl-mmio is a
    second way to the same counter.
    """
    folder = folder or POWERCAP
    found = [_domain(zone) for zone in sorted(folder.glob("intel-rapl:*")) if _counts(zone)]
    if not found:
        raise NotMeasured(f"{folder} has no counters of processor packages")
    return found


def _counts(zone: Path) -> bool:
    part = zone.name.count(":") == 2
    name = _text(zone / "name")
    return name == "dram" if part else name.startswith("package")


def _domain(zone: Path) -> Counter:
    name = _text(zone / "name")
    if name == "dram":
        name = f"{_text(zone.parent / zone.name.rpartition(':')[0] / 'name')} dram"
    largest = int(_text(zone / "max_energy_range_uj"))
    return Counter(name, lambda: int(_text(zone / "energy_uj")), 1e-6, largest)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NotMeasured(f"{path}: {why}") from error


def nvml(uuid: str, library: Callable[[str], Any] = ctypes.CDLL) -> Counter:
    """The counter of the GPU of this UUID. Raises NotMeasured."""
    try:
        lib = library(NVML)
    except OSError as error:
        raise NotMeasured(f"{NVML}: {error}") from error

    def call(name: str, *arguments: Any) -> None:
        code = getattr(lib, name)(*arguments)
        if code == NOT_SUPPORTED:
            raise NotMeasured(f"GPU {uuid} counts no energy (before Volta, or a part of a GPU)")
        if code:
            lib.nvmlErrorString.restype = ctypes.c_char_p
            raise NotMeasured(f"{name}: {lib.nvmlErrorString(code).decode()}")

    handle = ctypes.c_void_p()
    call("nvmlInit_v2")
    name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
    call("nvmlDeviceGetHandleByUUID", name.encode(), ctypes.byref(handle))

    def read() -> int:
        state = ctypes.c_ulonglong()
        call("nvmlDeviceGetTotalEnergyConsumption", handle, ctypes.byref(state))
        return int(state.value)

    return Counter(name, read, 1e-3)


class Meter:
    """Adds up what the counters of one kind move by, from start to stop.

    found: gives the counters, or raises NotMeasured. A thread looks so often that no counter goes round twice unseen.
    """

    def __init__(self, found: Callable[[], list[Counter]], look_s: float = LOOK_SECONDS):
        self._found, self._look_s = found, look_s
        self._counters: list[Counter] = []
        self._states: list[int] = []
        self._moved: list[int] = []
        self._why = ""
        self._stopped = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        try:
            self._counters = self._found()
            self._states = [counter.read() for counter in self._counters]
        except (NotMeasured, ValueError, AttributeError) as error:
            self._why = str(error)
            return
        self._moved = [0] * len(self._states)
        if self._counters:
            self._thread = Thread(target=self._watch, name="energy", daemon=True)
            self._thread.start()

    def _watch(self) -> None:
        while not self._stopped.wait(self._look_s) and not self._why:
            self._look()

    def _look(self) -> None:
        try:
            for i, counter in enumerate(self._counters):
                state = counter.read()
                self._moved[i] += moved(counter, self._states[i], state)
                self._states[i] = state
        except (NotMeasured, ValueError) as error:
            self._why = str(error)

    def stop(self) -> dict[str, Any]:
        """{"joules": by counter} or {"not_measured": why}; {} where there is nothing to measure."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._look()
        if self._why:
            return {"not_measured": self._why}
        joules = {c.name: n * c.unit_j for c, n in zip(self._counters, self._moved, strict=True)}
        return {"joules": joules} if joules else {}


def moved(counter: Counter, before: int, after: int) -> int:
    """How far a counter has moved. Raises NotMeasured where it was set back.

    >>> moved(Counter("package-0", int, 1e-6, largest=99), 90, 5)
    15
    """
    if after >= before:
        return after - before
    if counter.largest is None or before > counter.largest:
        raise NotMeasured(f"{counter.name}: its counter was set back during the run")
    return after + counter.largest + 1 - before


class Energy:
    """The meters of one rank: the first of a host reads its processors, each with a GPU reads that GPU.

    gpu_uuid: of the GPU that the rank computes on; "" for none.
    """

    def __init__(self, host: str, *, processors: bool, gpu_uuid: str = ""):
        self._host = host
        self._meters: dict[str, Meter] = {}
        if processors:
            self._meters["cpu"] = Meter(rapl)
        if gpu_uuid:
            self._meters["gpu"] = Meter(lambda: [nvml(gpu_uuid)])

    def start(self) -> None:
        for meter in self._meters.values():
            meter.start()

    def stop(
        self, gather: Callable[[str], Mapping[int, str]], size: int, *, resumed: bool = False
    ) -> dict[str, Any]:
        """Collective: what all ranks have measured as the trace's attribute `energy`, on rank 0; {} elsewhere.

        gather: every living rank's text by rank, on rank 0; size: ranks that there were at the begin.
        resumed: the run went on from a checkpoint, and nobody counted from its end to that.
        """
        own = {kind: meter.stop() for kind, meter in self._meters.items()}
        texts = gather(json.dumps({"host": self._host, **own}))
        if not texts:
            return {}
        spoilt = (
            "the run went on from a checkpoint" if resumed else "a rank died" if len(texts) < size else ""
        )
        return {"energy": together([json.loads(texts[rank]) for rank in sorted(texts)], spoilt)}


def together(ranks: Sequence[Mapping[str, Any]], spoilt: str = "") -> dict[str, Any]:
    """{"cpu": …, "gpu": …}, each {"joules": sum or null, "by_host": …, "not_measured": why by host}.

    The sum is null where any host's part is missing, or where there is none of the kind. A GPU that several ranks
    compute on counts once. spoilt: why there can be no sum at all; "" for nothing.
    """
    found: dict[str, Any] = {}
    for kind in ("cpu", "gpu"):
        by_host: dict[str, dict[str, float]] = {}
        missing: dict[str, str] = {}
        for rank in ranks:
            own = rank.get(kind, {})
            if "not_measured" in own:
                missing[rank["host"]] = own["not_measured"]
            if "joules" in own:
                by_host.setdefault(rank["host"], {}).update(own["joules"])
        if spoilt:
            missing = dict.fromkeys([*by_host, *missing], spoilt)
        joules = sum(value for own in by_host.values() for value in own.values())
        whole = bool(by_host) and not missing
        found[kind] = {"joules": joules if whole else None, "by_host": by_host, "not_measured": missing}
    return found
