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
from qafel_mpi.transport.assignment import Gpu

D = 1_000_000
FRAME = 64 + 4 * D


def setup(*settings: str, clients: int = 1, device: str = "cpu", together: int = 1) -> Setup:
    layout = Layout(("x",), ((D,),))
    experiment = load("digits", ["clock.kind=wall", *settings])
    uplink, downlink = (build(link, layout) for link in (experiment.uplink, experiment.downlink))
    task: Any = SimpleNamespace(
        together=together, layout=layout, device=torch.device(device), dtype=torch.float32
    )
    return Setup(experiment, task, uplink, downlink, Identity(layout), clients, torch.zeros(1), "full", "")


def by_name(parts: list[memory.Part]) -> dict[str, int]:
    return {part.what: part.bytes for part in parts if part.bytes}


def test_fedbuffs_server_holds_vectors_and_receives_for_uploads_of_float32():
    assert by_name(server_parts(setup("algorithm=fedbuff"), 40)) == {
        "6 vectors of 1,000,000 parameters": 6 * 4 * D,
        "1 of server.momentum": 4 * D,
        f"32 receives for uploads of {FRAME:,} bytes": 32 * FRAME,
        "a broadcast": FRAME,
        "a copy of the server for a checkpoint": 4 * 4 * D,
    }


def test_a_step_in_several_passes_has_room_for_the_difference():
    for codec, vectors in (("qsgd", 0), ("affine", 1)):
        parts = by_name(server_parts(setup("algorithm=qafel", f"downlink.codec={codec}"), 40))
        assert parts.get("vectors for a moment", 0) == vectors * 4 * D
    zstd = setup("algorithm=qafel", "downlink.entropy=zstd")
    assert "vectors for a moment" not in by_name(server_parts(zstd, 40))


def test_what_a_setting_asks_for_is_a_part_of_its_own():
    fadas = by_name(
        server_parts(setup("algorithm=fadas", "transport.receive_slots=3"), 40, checkpoints=False)
    )
    assert fadas["4 of server.optimizer"] == 4 * 4 * D
    assert fadas[f"3 receives for uploads of {FRAME:,} bytes"] == 3 * FRAME
    assert "a copy of the server for a checkpoint" not in fadas
    client = by_name(
        client_parts(setup("algorithm=fedbuff", "transport.progress=thread", "client.momentum=0.9"))
    )
    assert client == {
        "5 vectors of 1,000,000 parameters": 5 * 4 * D,
        "2 of client.optimizer, client.momentum, transport.progress and server.update": 2 * 4 * D,
        "2 receives for broadcasts": 2 * FRAME,
        "2 uploads under way": 2 * FRAME,
    }


def test_the_server_of_ca2fl_keeps_the_last_update_of_every_client():
    one = setup("algorithm=ca2fl", clients=1000)
    size = one.uplink.payload_bytes()
    parts = by_name(server_parts(one, 40))
    assert parts["the last updates of 1,000 clients"] == 1000 * size
    assert parts["2 copies of these updates for a checkpoint"] == 2 * 1000 * size
    few = setup("algorithm=ca2fl", "stop.uploads=50", clients=1000)
    assert by_name(server_parts(few, 40))["the last updates of 50 clients"] == 50 * size


@pytest.mark.parametrize(("bits", "each"), [(32, 4 * D), (8, D + 4 * -(-D // 512))])
def test_residuals_are_where_the_clients_live_and_rank_0_gathers_them(bits, each):
    settings = ("algorithm=qafel", "client.error_feedback=true", f"client.error_bits={bits}")
    one = setup(*settings, clients=100)
    client, server = by_name(client_parts(one, 25)), by_name(server_parts(one, 4))
    assert client["the residuals of 25 clients"] == 25 * each
    assert client["2 copies of the residuals of 25 clients for a checkpoint"] == 2 * 25 * each
    assert "the residuals of 100 clients" not in server
    assert server["2 copies of the residuals of 100 clients for a checkpoint"] == 2 * 100 * each
    alone = setup(*settings, "clock.kind=virtual", clients=100)
    assert by_name(server_parts(alone, 0))["the residuals of 100 clients"] == 100 * each


def test_the_models_of_quafls_clients_lie_where_they_are_trained():
    for device in ("cpu", "cuda"):
        parts = client_parts(setup("algorithm=quafl", clients=100, device=device), 50, checkpoints=False)
        (models,) = (part for part in parts if part.what.startswith("the models"))
        assert (models.what, models.bytes) == ("the models of 50 clients", 50 * 4 * D)
        assert models.on_gpu == (device == "cuda")


def test_in_one_process_of_the_virtual_clock_rank_0_trains_and_has_uploads_before_their_time():
    one = setup("algorithm=fedbuff", "clock.kind=virtual", "clock.concurrency=70", clients=100, together=16)
    parts = by_name(server_parts(one, 0, checkpoints=False))
    assert parts["22 vectors of 1,000,000 parameters"] == 22 * 4 * D
    assert parts["uploads of 70 clients that train"] == 70 * 4 * D


def test_what_a_gpu_holds_is_no_part_of_its_host():
    parts = client_parts(setup("algorithm=fedbuff", "client.momentum=0.9", device="cuda"))
    assert by_name([part for part in parts if part.on_gpu]) == {
        "5 vectors of 1,000,000 parameters": 5 * 4 * D,
        "1 of client.optimizer, client.momentum, transport.progress and server.update": 4 * D,
    }
    assert by_name(parts)["1 vectors of 1,000,000 parameters"] == 4 * D


def test_adamw_keeps_two_vectors_and_a_client_that_sends_its_model_where_it_began():
    for settings, vectors in ((["algorithm=decoupled"], 2), (["algorithm=fedasync"], 1)):
        (more,) = (part for part in client_parts(setup(*settings)) if "client.optimizer" in part.settings)
        assert more.bytes == vectors * 4 * D


def test_a_client_with_a_hidden_state_has_room_for_a_full_one_in_every_receive():
    client = by_name(client_parts(setup("algorithm=qafel")))
    assert client["2 receives for broadcasts"] == 2 * FRAME
    assert client["2 uploads under way"] < FRAME / 3


def test_a_run_that_does_not_fit_is_refused_with_its_bytes_by_part_and_what_to_change(monkeypatch):
    place: Any = SimpleNamespace(host="node7", gpu=None)
    one = setup(
        "algorithm=fadas", "clock.kind=virtual", "clock.concurrency=1", "uplink.codec=sign", clients=2
    )
    # But for x⁰ and the model, which are there.
    needed = (7 + 4 + 6 - 2) * 4 * D + 3 * one.uplink.payload_bytes()
    monkeypatch.setattr(memory, "free_bytes", lambda: needed - 1)
    with pytest.raises(ConfigError) as caught:
        refuse_what_does_not_fit(one, MPI.COMM_SELF, place)
    assert [*caught.value.problems] == [
        "this run needs 68.4 MB of memory on node7, and 60.4 MB are free there. rank 0: 7 vectors of 1,000,000 "
        "parameters 28.0 MB, 4 of server.optimizer 16.0 MB, uploads of 1 clients that train 0.1 MB, 2 copies of "
        "these uploads for a checkpoint 0.3 MB, a copy of the server for a checkpoint 24.0 MB. Take a smaller "
        "model than task.model = 'mlp', or fewer ranks a host, or change --checkpoint-every never, server.optimizer, "
        "clock.concurrency"
    ]
    monkeypatch.setattr(memory, "free_bytes", lambda: needed)
    refuse_what_does_not_fit(one, MPI.COMM_SELF, place)


def test_a_gpu_that_is_too_small_is_named(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 40)
    monkeypatch.setattr(memory, "visible_gpus", lambda: (Gpu(0, "GPU-1", "0000:3b:00.0"),))
    asked = []
    monkeypatch.setattr(memory, "gpu_free_bytes", lambda index: asked.append(index) or 2 * 4 * D)
    place: Any = SimpleNamespace(host="node7", gpu=0)
    one = setup("algorithm=fedbuff", "clock.kind=virtual", "clock.concurrency=1", clients=2, device="cuda")
    refuse_what_does_not_fit(one, MPI.COMM_SELF, place)
    assert asked == [0]
    two = setup("algorithm=fedbuff", "clock.kind=virtual", "client.momentum=0.9", clients=2, device="cuda")
    monkeypatch.setattr(memory, "in_training", lambda *_, **__: 1)
    with pytest.raises(
        ConfigError, match=r"needs 16\.0 MB of memory on GPU 0000:3b:00\.0 of node7, and 8\.0 MB are"
    ):
        refuse_what_does_not_fit(two, MPI.COMM_SELF, place)
