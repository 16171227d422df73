"""What a run needs, by part, and how one that does not fit is refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mpi4py import MPI

from qafel_mpi.codecs import Layout, build
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.config import ConfigError, load
from qafel_mpi.drivers import memory
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.memory import client_parts, refuse_what_does_not_fit, server_parts

D = 1_000_000
FRAME = 64 + 4 * D


def setup(*settings: str) -> Setup:
    layout = Layout(("x",), ((D,),))
    experiment = load("digits", ["clock.kind=wall", *settings])
    uplink, downlink = (build(link, layout) for link in (experiment.uplink, experiment.downlink))
    task: Any = SimpleNamespace(together=1, layout=layout, device=torch.device("cpu"))
    return Setup(experiment, task, uplink, downlink, Identity(layout), 1, torch.zeros(1), "full", "")


def by_name(parts: list[memory.Part]) -> dict[str, int]:
    return {part.what: part.bytes for part in parts if part.bytes}


def test_fedbuffs_server_holds_vectors_and_receives_for_uploads_of_float32():
    assert by_name(server_parts(setup("algorithm=fedbuff"), 40)) == {
        "7 vectors of 1,000,000 parameters": 7 * 4 * D,
        "1 of server.momentum": 4 * D,
        f"32 receives for uploads of {FRAME:,} bytes": 32 * FRAME,
        "a broadcast": FRAME,
    }


def test_what_a_setting_asks_for_is_a_part_of_its_own():
    fadas = by_name(server_parts(setup("algorithm=fadas", "transport.receive_slots=3"), 40))
    assert fadas["4 of server.optimizer"] == 4 * 4 * D
    assert fadas[f"3 receives for uploads of {FRAME:,} bytes"] == 3 * FRAME
    client = by_name(
        client_parts(setup("algorithm=fedbuff", "transport.progress=thread", "client.momentum=0.9"))
    )
    assert client == {
        "5 vectors of 1,000,000 parameters": 5 * 4 * D,
        "2 of client.optimizer, client.momentum, transport.progress and server.update": 2 * 4 * D,
        "2 receives for broadcasts": 2 * FRAME,
        "2 uploads under way": 2 * FRAME,
    }


def test_adamw_keeps_two_vectors_and_a_client_that_sends_its_model_where_it_began():
    for settings, vectors in ((["algorithm=decoupled"], 2), (["algorithm=fedasync"], 1)):
        (more,) = (part for part in client_parts(setup(*settings)) if "client.optimizer" in part.settings)
        assert more.bytes == vectors * 4 * D


def test_a_client_with_a_hidden_state_has_room_for_a_full_one_in_every_receive():
    client = by_name(client_parts(setup("algorithm=qafel")))
    assert client["2 receives for broadcasts"] == 2 * FRAME
    assert client["2 uploads under way"] < FRAME / 3


def test_a_run_that_does_not_fit_is_refused_with_its_bytes_by_part_and_what_to_change(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 10 * 4 * D)
    place: Any = SimpleNamespace(host="node7")
    one = setup("algorithm=fadas", "clock.kind=virtual")
    monkeypatch.setattr(memory, "HELD", 0)
    with pytest.raises(ConfigError) as caught:
        refuse_what_does_not_fit(one, MPI.COMM_SELF, place)
    assert [*caught.value.problems] == [
        "this run needs 44.0 MB of memory on node7, and 40.0 MB are free there. rank 0: 7 vectors of 1,000,000 "
        "parameters 28.0 MB, 4 of server.optimizer 16.0 MB. Take a smaller model than task.model = 'mlp', or fewer "
        "ranks a host, or change server.optimizer"
    ]
    monkeypatch.setattr(memory, "free_bytes", lambda: 11 * 4 * D)
    refuse_what_does_not_fit(one, MPI.COMM_SELF, place)
