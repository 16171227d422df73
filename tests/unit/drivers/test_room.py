"""A model that does not fit is refused while it is made; memory that is free is the least that anything allows."""

from __future__ import annotations

import pytest
from torch import nn

from qafel_mpi.drivers import room


def test_a_model_is_refused_while_it_is_made_before_values_are_written_to_what_does_not_fit(monkeypatch):
    monkeypatch.setattr(room, "LOOKED_AT", 0)
    monkeypatch.setattr(room, "free_bytes", lambda: 5 * 4 * 110)
    written: list[int] = []
    monkeypatch.setattr(nn.Linear, "reset_parameters", lambda self: written.append(self.out_features))
    with room.parameters_fit():
        for _ in range(3):  # one after the other: what is gone does not count
            nn.Linear(10, 10)
        with pytest.raises(MemoryError, match=r"5 vectors .* up to 'weight', are .*, and 0.0 MB are free"):
            nn.Sequential(nn.Linear(10, 10), nn.Linear(10, 11))
    assert written == [10] * 4
    nn.Linear(10, 11)  # afterwards nothing is looked at


def test_the_limit_of_a_container_counts_where_it_is_less_than_the_host_has(tmp_path, monkeypatch):
    monkeypatch.setattr(room, "CGROUP", tmp_path)
    whole = room.free_bytes()
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert room.free_bytes() == 3000 < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert room.free_bytes() > 3000
