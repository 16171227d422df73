"""Vectors in huge pages, and freed memory that is kept."""

from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest
import torch
from torch import nn

from qafel_mpi.kernels.memory import (
    copy_of,
    give_freed_memory_back,
    keep_freed_memory,
    vector,
    vector_like,
)
from qafel_mpi.transport.placement import proportional_bytes

HUGE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such setting")
def test_memory_that_a_training_step_has_freed_is_there_for_the_next_step():
    layers = [
        (nn.Conv2d(c, 32, 3, padding=2), nn.GroupNorm(32, 32), nn.ReLU(), nn.MaxPool2d(2)) for c in (3, 32)
    ]
    model, images = nn.Sequential(*sum(layers, ())), torch.randn(32, 3, 32, 32)
    assert keep_freed_memory()
    for _ in range(4):
        model(images).square().mean().backward()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        model(images).square().mean().backward()
    found = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before  # pages that Linux had to find
    assert found < 1000  # some 20,000 where they are given back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such function")
def test_memory_that_is_kept_can_be_given_back():
    assert keep_freed_memory()
    arrays = [torch.ones(25_000) for _ in range(500)]  # 50 MB, each less than what glibc maps apart
    del arrays
    kept = proportional_bytes() or 0
    give_freed_memory_back()
    assert kept - (proportional_bytes() or 0) > 40e6


@pytest.mark.parametrize("elements", [0, 1, 1000, 1 << 20, (1 << 21) + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_vectors_are_torchs_own_in_size_type_and_alignment(elements, dtype):
    x = vector(elements, dtype)
    assert (x.shape, x.dtype, x.is_contiguous()) == ((elements,), dtype, True)
    assert x.data_ptr() % 64 == 0
    x.fill_(2)
    y = copy_of(x)
    x.zero_()
    assert torch.equal(y, torch.full((elements,), 2, dtype=dtype))
    assert vector_like(y).dtype == dtype


def test_long_vectors_in_a_row_begin_half_a_page_apart():
    begins = [vector(1 << 21, torch.float32).data_ptr() % 4096 for _ in range(4)]
    assert begins in ([0, 2048, 0, 2048], [2048, 0, 2048, 0])


def test_on_another_device_it_is_torchs_memory():
    assert vector(1 << 21, torch.float32, "meta").device.type == "meta"


@pytest.mark.skipif(
    not HUGE.exists() or "[never]" in HUGE.read_text(), reason="this kernel gives no huge pages"
)
def test_a_long_vector_lies_in_huge_pages():
    x = vector(16 << 20, torch.float32).fill_(1)
    begin, found = x.data_ptr(), 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = line.split()[0]
        if "-" in head and not head.endswith(":"):
            low, high = (int(part, 16) for part in head.split("-"))
            within = low <= begin + (32 << 20) < high
        elif within and head == "AnonHugePages:":
            found = int(line.split()[1])
    assert found > 0
