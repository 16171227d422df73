"""What is larger than memory while a run is made is said with what decides it."""

from __future__ import annotations

import pytest

from qafel_mpi.config import load
from qafel_mpi.drivers.build import affordable
from qafel_mpi.tasks.errors import DataError


def test_a_model_larger_than_memory_is_said_by_its_name_with_sizes_and_no_other_settings():
    experiment = load("digits", ["task.hidden=9000000", "stop.uploads=99999999", "clock.kind=wall"])
    with pytest.raises(DataError) as caught, affordable(experiment):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 2304000000000 bytes"
        )
    assert "it comes from task.model = 'mlp', and from its largest numbers, task.hidden = 9000000" in str(
        caught.value
    )
    assert "stop.uploads" not in str(caught.value)


def test_other_errors_stay_what_they_are():
    with pytest.raises(ValueError, match="not of this kind"), affordable(load("digits", [])):
        raise ValueError("not of this kind")
