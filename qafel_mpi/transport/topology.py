"""What is near what on this host, as Linux tells it: the NUMA nodes of cores and of PCI devices."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = Path("/sys")
LOCAL_DISTANCE = 10  # ACPI's, of a node to itself


@dataclass(frozen=True)
class Topology:
    """One NUMA node for everything where nothing is known."""

    node_of_core: dict[int, int] = field(default_factory=dict)
    node_of_device: dict[str, int] = field(default_factory=dict)  # by PCI address, "0000:3b:00.0"
    distances: dict[tuple[int, int], int] = field(default_factory=dict)  # of two nodes
    first_thread: dict[int, int] = field(default_factory=dict)  # of a core's hardware threads

    def near(self, cores: Iterable[int]) -> list[int]:
        """The cores so that those of one node, and threads of one physical core, lie beside each other."""
        return sorted(cores, key=lambda c: (self.node_of_core.get(c, 0), self.first_thread.get(c, c), c))

    def distance(self, core: int, device: str) -> int:
        """From a core to a device; that of a device whose node is not known is the same for all."""
        here, there = self.node_of_core.get(core, 0), self.node_of_device.get(device)
        if there is None or here == there:
            return LOCAL_DISTANCE
        return self.distances.get((here, there), 2 * LOCAL_DISTANCE)


def topology(devices: Iterable[str] = (), system: Path = SYSTEM) -> Topology:
    """This host's, from sysfs. devices: PCI addresses to look up."""
    found = Topology()
    for folder in sorted(system.glob("devices/system/node/node[0-9]*")):
        node = int(folder.name.removeprefix("node"))
        for core in parse_ranges(_read(folder / "cpulist")):
            found.node_of_core[core] = node
        # One distance for each node that is online, in order; their numbers may have holes.
        others = parse_ranges(_read(system / "devices/system/node/online"))
        for other, distance in zip(others, _read(folder / "distance").split(), strict=False):
            found.distances[node, other] = int(distance)
    for folder in system.glob("devices/system/cpu/cpu[0-9]*"):
        if threads := parse_ranges(_read(folder / "topology/thread_siblings_list")):
            found.first_thread[int(folder.name.removeprefix("cpu"))] = threads[0]
    for device in devices:
        text = _read(system / "bus/pci/devices" / device.lower() / "numa_node")
        if text and int(text) >= 0:  # -1: a machine that has one node, or does not say
            found.node_of_device[device] = int(text)
    return found


def parse_ranges(text: str) -> list[int]:
    """Numbers as the kernel writes them.

    >>> parse_ranges("0-3,8")
    [0, 1, 2, 3, 8]
    """
    numbers: list[int] = []
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""
