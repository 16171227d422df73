"""CA²FL: steps that make up for the clients that are not in the buffer."""

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build
from tests.unit.algorithms.made import CODECS, D, make, start, step, upload

TWO = Layout(("w",), ((2,),))


def server_of(**settings) -> Server:
    full, preset = build(CodecConfig(codec="identity"), TWO), PRESETS["ca2fl"]
    return Server(
        torch.zeros(2), full, Replica(torch.zeros(2), full, assigns=True),
        ServerConfig(**preset["server"] | settings), StalenessConfig(**preset["staleness"]), seed=0, clients=2,
    )  # fmt: skip


def receive(server: Server, client: int, value: tuple[float, float]) -> None:
    server.receive(Update(client, server.version, np.array(value, "<f4").view(np.uint8), 0))


def test_three_steps_by_hand():
    """n = 2 clients, K = 2, η_g = 1, x = h = (0, 0).

    1: client 0 sends (2, 0), client 1 (4, 2): buffer (6, 2); v = 0 + (6, 2)/2 = (3, 1); x = (3, 1);
       h = (6, 2)/2 = (3, 1).
    2: client 0 sends (6, 0), then (4, 0): buffer (6 − 2, 0) + (4 − 6, 0) = (2, 0); v = (3, 1) + (1, 0) = (4, 1);
       x = (7, 2); h = ((4, 0) + (4, 2))/2 = (4, 1).
    3: client 1 sends (0, 0), client 0 (4, 0): buffer (−4, −2) + (0, 0); v = (4, 1) − (2, 1) = (2, 0); x = (9, 2);
       h = (4, 0)/2 = (2, 0).
    """
    server = server_of(buffer_size=2)
    rounds = [
        ([(0, (2, 0)), (1, (4, 2))], [3, 1], [3, 1]),
        ([(0, (6, 0)), (0, (4, 0))], [7, 2], [4, 1]),
        ([(1, (0, 0)), (0, (4, 0))], [9, 2], [2, 0]),
    ]
    for uploads, x, h in rounds:
        for client, value in uploads:
            receive(server, client, value)
        server.step(np.zeros(8, np.uint8))
        assert server.x.tolist() == x
        assert server.calibration is not None
        assert server.calibration.mean.tolist() == h


def test_ace_steps_along_the_mean_of_the_last_updates_of_all_clients():
    """n = 2, K = 1: (2, 0) of client 0 makes (1, 0); (0, 4) of client 1 (1, 2); (4, 0) of client 0 (2, 2)."""
    server = server_of(buffer_size=1, reduction="clients")
    x = torch.zeros(2)
    for client, value, mean in ((0, (2, 0), (1, 0)), (1, (0, 4), (1, 2)), (0, (4, 0), (2, 2))):
        receive(server, client, value)
        server.step(np.zeros(8, np.uint8))
        x += torch.tensor(mean)
        assert torch.equal(server.x, x)


@pytest.mark.parametrize("name", ["qsgd", "affine", "topk", "zstd"])
def test_what_is_remembered_is_the_payload_that_came(name):
    """The mean of the decoded last uploads, within float rounding."""
    server, up, down = make(CODECS[name], buffer_size=3, calibration="clients")
    last: dict[int, torch.Tensor] = {}
    for n in range(9):
        client, decoded = n % 4, torch.zeros(D)
        payload = np.zeros(up.payload_bytes(), np.uint8)
        up.decode(payload[: up.encode(start(n), payload, 100 + n)], decoded, 100 + n)
        last[client] = decoded
        upload(server, up, start(n), client=client, key=100 + n)
        if server.full:
            step(server, down)
    assert server.calibration is not None
    assert torch.allclose(server.calibration.mean, sum(last.values(), torch.zeros(D)) / 8, atol=1e-5)


@pytest.mark.parametrize("bounds", [{}, {"reject_norm": 1e6}], ids=["unbounded", "bounded"])
def test_where_a_payload_is_refused_nothing_is_remembered(bounds):
    server, fresh = (
        make(CODECS["qsgd"], buffer_size=4, calibration="clients", **bounds)[0] for _ in range(2)
    )
    up, payload = server.uplink, np.zeros(server.uplink.payload_bytes(), np.uint8)
    up.encode(start(), payload, 1)
    good, bad = Update(0, 0, payload, 1), Update(1, 0, payload[:-1], 1)
    assert server.receive_all([good, bad]) == [1.0, 0.0]
    assert fresh.receive(good) == 1.0
    for client in (0, 1):
        for one in (server, fresh):
            upload(one, up, start(client), client=client)
        assert torch.equal(server.buffer, fresh.buffer)
    assert server.filled == fresh.filled == 3


def test_a_server_goes_on_from_its_saved_state():
    """The last updates come back: client 0's next one, (4, 0), moves the buffer by its difference, (−2, 0)."""
    servers = [server_of(buffer_size=1), server_of(buffer_size=1)]
    receive(servers[0], 0, (6, 0))
    servers[0].step(np.zeros(8, np.uint8))
    servers[1].restore(servers[0].state())
    for server in servers:
        receive(server, 0, (4, 0))
        server.step(np.zeros(8, np.uint8))
    assert servers[1].x.tolist() == servers[0].x.tolist()
    assert servers[1].calibration is not None
    assert servers[1].calibration.mean.tolist() == [2, 0]


def test_a_state_of_another_size_is_refused():
    server = server_of(buffer_size=1)
    state = server.state()
    state["calibration"] = state["calibration"] | {"mean": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match="is needed"):
        server.restore(state)
