"""Joules from counters, on made-up machines."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from qafel_mpi.drivers.energy import Counter, Energy, Meter, NotMeasured, moved, nvml, rapl, together

UUID = "4d1e3c5a-0000-1111-2222-333344445555"


def zone(folder: Path, name: str, domain: str, state: int, largest: int = 1_000_000) -> Path:
    """A folder as the kernel has them: flat, with the parts of a package beside it."""
    path = folder / name
    path.mkdir(parents=True)
    for file, text in (("name", domain), ("energy_uj", state), ("max_energy_range_uj", largest)):
        (path / file).write_text(f"{text}\n")
    return path


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """Two packages, one with memory; beside them what is in the packages already, or contains them."""
    zone(tmp_path, "intel-rapl:0", "package-0", 999_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 1)
    zone(tmp_path, "intel-rapl:0:1", "dram", 500)
    zone(tmp_path, "intel-rapl:1", "package-1", 10)
    zone(tmp_path, "intel-rapl:2", "psys", 77)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 999_000)
    (tmp_path / "intel-rapl").mkdir()
    return tmp_path


def put(folder: Path, name: str, state: int) -> None:
    part = folder / name / "part"
    part.write_text(f"{state}\n")
    part.replace(folder / name / "energy_uj")


def test_packages_and_memory_are_counted_once(server: Path) -> None:
    assert [counter.name for counter in rapl(server)] == ["package-0", "package-0 dram", "package-1"]
    meter = Meter(lambda: rapl(server))
    meter.start()
    put(server, "intel-rapl:0", 4_000)  # round: 1,000 to the end and 1 more
    put(server, "intel-rapl:0:1", 2_500)
    put(server, "intel-rapl:2", 999)
    found = meter.stop()["joules"]
    assert found == pytest.approx({"package-0": 5_001e-6, "package-0 dram": 2_000e-6, "package-1": 0.0})


def test_a_counter_that_goes_round_twice_is_seen_each_time(server: Path) -> None:
    meter = Meter(lambda: rapl(server), look_s=0.01)
    meter.start()
    for state in (0, 500_000, 0, 500_000, 0):
        put(server, "intel-rapl:0", state)
        end_s = monotonic() + 5
        while meter._states[0] != state and monotonic() < end_s:
            sleep(0.005)
    whole = meter.stop()["joules"]["package-0"]
    assert whole == pytest.approx((1_001 + 2 * 1_000_001) * 1e-6)


def test_what_can_not_be_read_is_not_measured_and_says_why(server: Path, tmp_path: Path) -> None:
    (server / "intel-rapl:1/energy_uj").unlink()
    (server / "intel-rapl:1/energy_uj").mkdir()  # root may read any file
    meter = Meter(lambda: rapl(server))
    meter.start()
    assert meter.stop() == {"not_measured": f"{server}/intel-rapl:1/energy_uj: Is a directory"}
    nothing = Meter(lambda: rapl(tmp_path / "none"))
    nothing.start()
    assert nothing.stop() == {"not_measured": f"{tmp_path}/none has no counters of processor packages"}


def test_a_counter_that_may_not_be_read_any_more_spoils_the_sum(server: Path) -> None:
    meter = Meter(lambda: rapl(server))
    meter.start()
    (server / "intel-rapl:0/energy_uj").unlink()
    assert meter.stop() == {"not_measured": f"{server}/intel-rapl:0/energy_uj: No such file or directory"}


def test_a_counter_without_a_range_that_falls_was_set_back() -> None:
    with pytest.raises(NotMeasured, match="gpu: its counter was set back"):
        moved(Counter("gpu", int, 1e-3), 10, 9)


class Library:
    """NVML as far as it is used. codes: by function; else 0."""

    def __init__(self, **codes: int):
        self.codes, self.energy_mj, self.asked = codes, 5_000, b""
        self.nvmlErrorString = lambda code: b"Insufficient Permissions"
        self.nvmlErrorString.restype = None  # type: ignore[attr-defined]

    def nvmlInit_v2(self) -> int:
        return self.codes.get("nvmlInit_v2", 0)

    def nvmlDeviceGetHandleByUUID(self, uuid: bytes, handle: Any) -> int:
        self.asked = uuid
        return self.codes.get("nvmlDeviceGetHandleByUUID", 0)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, state: Any) -> int:
        ctypes.cast(state, ctypes.POINTER(ctypes.c_ulonglong))[0] = self.energy_mj
        return self.codes.get("nvmlDeviceGetTotalEnergyConsumption", 0)


def test_a_gpu_counts_in_millijoules() -> None:
    library = Library()
    meter = Meter(lambda: [nvml(UUID, lambda name: library)])
    meter.start()
    library.energy_mj += 1_250
    assert meter.stop() == {"joules": {f"GPU-{UUID}": pytest.approx(1.25)}}
    assert library.asked == f"GPU-{UUID}".encode()


@pytest.mark.parametrize(
    ("codes", "why"),
    [
        ({"nvmlDeviceGetTotalEnergyConsumption": 3}, "counts no energy"),
        ({"nvmlInit_v2": 4}, "nvmlInit_v2: Insufficient Permissions"),
    ],
)
def test_a_gpu_that_does_not_count_is_not_measured(codes: dict[str, int], why: str) -> None:
    meter = Meter(lambda: [nvml(UUID, lambda name: Library(**codes))])
    meter.start()
    assert why in meter.stop()["not_measured"]


def test_without_nvidias_library_a_gpu_is_not_measured() -> None:
    def none(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    with pytest.raises(NotMeasured, match=r"libnvidia-ml\.so\.1: cannot open"):
        nvml(UUID, none)


def test_the_hosts_add_up_and_a_shared_gpu_counts_once() -> None:
    one = {"host": "a", "cpu": {"joules": {"package-0": 2.0}}, "gpu": {"joules": {"u": 7.0}}}
    found = together(
        [one, {"host": "a", "gpu": {"joules": {"u": 7.0}}}, {"host": "b", "cpu": {"joules": {"p": 1.0}}}]
    )
    assert found["cpu"]["joules"] == 3.0
    assert found["gpu"] == {"joules": 7.0, "by_host": {"a": {"u": 7.0}}, "not_measured": {}}
    json.dumps(found)


def test_a_sum_without_one_of_its_hosts_is_not_measured() -> None:
    ranks = [
        {"host": "a", "cpu": {"joules": {"p": 2.0}}},
        {"host": "b", "cpu": {"not_measured": "b says no"}},
    ]
    found = together(ranks)["cpu"]
    assert found == {"joules": None, "by_host": {"a": {"p": 2.0}}, "not_measured": {"b": "b says no"}}
    assert together([ranks[0]], "a rank died")["cpu"]["not_measured"] == {"a": "a rank died"}
    assert together([{"host": "a"}])["gpu"] == {"joules": None, "by_host": {}, "not_measured": {}}


def test_only_the_first_rank_of_a_host_reads_its_processors() -> None:
    assert Energy("a", processors=False)._meters == {}
    assert Energy("a", processors=True, gpu_uuid=UUID)._meters.keys() == {"cpu", "gpu"}


@pytest.mark.parametrize(
    ("size", "resumed", "why"),
    [(1, False, "no counters"), (2, False, "a rank died"), (1, True, "went on from a checkpoint")],
)
def test_rank_0_says_why_there_is_no_sum_and_other_ranks_nothing(
    size: int, resumed: bool, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qafel_mpi.drivers.energy.POWERCAP", tmp_path)
    own = Energy("a", processors=True)
    own.start()
    found = own.stop(lambda text: {0: text}, size, resumed=resumed)["energy"]["cpu"]
    assert found["joules"] is None
    assert why in found["not_measured"]["a"]
    assert Energy("a", processors=False).stop(lambda text: {}, size) == {}
