"""Cores and GPUs of a host, divided among made-up ranks; what the MPI library says of GPUs."""

import mmap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mpi4py import MPI

from qafel_mpi.transport import placement
from qafel_mpi.transport.assignment import Given, Gpu, assign
from qafel_mpi.transport.topology import Topology, topology

CORES = tuple(range(8))
NEAR = Topology(
    {core: core // 4 for core in CORES}, {"0000:01:00.0": 1, "0000:02:00.0": 0}, {(0, 1): 21, (1, 0): 21}
)
GPUS = (Gpu(0, "GPU-a", "0000:01:00.0"), Gpu(1, "GPU-b", "0000:02:00.0"))


def test_a_gpu_is_near_its_ranks_cores_and_no_rank_crosses_nodes():
    server, *clients = assign([Given(CORES, GPUS, computes=k > 0) for k in range(4)], NEAR)
    assert (server.cores, server.gpu) == ((0, 1), None)
    assert [own.cores for own in clients] == [(2, 3), (4, 5), (6, 7)]
    assert [own.gpu for own in clients[:2]] == [1, 0]
    assert sorted(own.gpu_ranks for own in clients) == [1, 2, 2]


def test_what_the_launcher_has_bound_stays_and_a_common_set_is_divided():
    own = assign([Given((0,), (), True), Given((1,), (), True)], Topology())
    assert [(s.cores, s.bound_by) for s in own] == [((0,), "launcher"), ((1,), "launcher")]
    common = assign([Given((2, 3), (), True)] * 2, Topology())
    assert [(s.cores, s.bound_by) for s in common] == [((2,), "qafel-mpi"), ((3,), "qafel-mpi")]
    assert assign([Given((2, 3), (), True)] * 3, Topology())[0].bound_by == "none"


def test_a_launcher_that_shows_each_rank_one_gpu_decides():
    given = [Given((k,), (Gpu(0, uuid),), True) for k, uuid in enumerate(("GPU-b", "GPU-a"))]
    assert [(s.gpu, s.gpu_ranks) for s in assign(given, NEAR)] == [(0, 1), (0, 1)]


def test_nodes_are_read_from_the_system(tmp_path):
    for path, text in {
        "devices/system/node/online": "0-1",
        "devices/system/node/node0/cpulist": "0-1",
        "devices/system/node/node0/distance": "10 21",
        "devices/system/node/node1/cpulist": "2-3",
        "devices/system/node/node1/distance": "21 10",
        "bus/pci/devices/0000:3b:00.0/numa_node": "1",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text + "\n")
    found = topology(["0000:3B:00.0", "0000:ff:00.0"], tmp_path)
    assert found.node_of_core == {0: 0, 1: 0, 2: 1, 3: 1}
    assert found.node_of_device == {"0000:3B:00.0": 1}
    assert (found.distance(0, "0000:3B:00.0"), found.distance(2, "0000:3B:00.0")) == (21, 10)


@pytest.mark.parametrize(
    ("functions", "aware"),
    [
        ({"MPIX_Query_cuda_support": lambda: 1}, True),
        ({"MPIX_Query_cuda_support": lambda: 0}, False),
        ({}, None),
        ({"MPIX_GPU_query_support": lambda kind, answer: setattr(answer._obj, "value", 1 - kind)}, True),
        ({"MPIX_GPU_query_support": lambda kind, answer: 16}, None),  # the call failed
    ],
)
def test_the_library_is_asked_for_gpu_support_where_it_can_be(monkeypatch, functions, aware):
    monkeypatch.setattr(placement, "_mpi_functions", lambda: SimpleNamespace(**functions))
    assert placement.gpu_aware() is aware


def test_the_library_that_is_loaded_answers():
    if "open mpi" in MPI.Get_library_version().lower():
        assert placement.gpu_aware() in (True, False)


@pytest.mark.skipif(placement.proportional_bytes() is None, reason="needs a kernel with Pss_Anon")
def test_memory_is_what_was_allocated_not_files_that_other_jobs_map_too():
    before = placement.proportional_bytes() or 0
    library = next((Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"))
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
        assert sum(pages[at] for at in range(0, 100_000_000, 4096)) > 0
        assert (placement.proportional_bytes() or 0) - before < 1e6
    with mmap.mmap(-1, 100_000_000) as own:  # an array might lie in memory that was freed and kept
        own.write(bytes(len(own)))
        assert (placement.proportional_bytes() or 0) - before > 0.99 * len(own)
