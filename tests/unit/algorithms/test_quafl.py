"""QuAFL, worked out by hand: two clients, two numbers, three steps."""

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.bounds import WRAPPED
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.algorithms.quafl import LocalModels, Question, local_rate
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build

TWO = Layout(("w",), ((2,),))
X0 = torch.zeros(2)


def made(codec: CodecConfig):
    """(server of S = 2, the models of its clients)."""
    lattice, preset = build(codec, TWO), PRESETS["quafl"]
    config = ServerConfig(**preset["server"] | {"buffer_size": 2})
    weight = StalenessConfig(**preset["staleness"])
    server = Server(X0, lattice, Replica(X0, lattice, assigns=True), config, weight, seed=0, clients=2)
    return server, LocalModels(X0, build(codec, TWO), build(codec, TWO), seed=0, asked=2)


def test_models_that_all_clients_rotate_alike_are_added_up_rotated():
    """y_0 = (6, 0, ...), y_1 = (0, 3, ...): x = (2, 1, ...), as near as 4 bits an element come."""
    codec = CodecConfig(codec="eden", bits=4, rotation="shared")
    server, models = made(codec)
    size = server.uplink.payload_bytes()
    for client, y in enumerate([(6.0, 0.0), (0.0, 3.0)]):
        models.model(client).add_(torch.tensor(y))
        sent, out = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        n, key = server.download(sent, client=client, participation=0)
        n, key, _ = models.answer(client, 0, Question(sent[:n], key, 0), out)
        assert server.receive(Update(client, 0, out[:n], key)) == 1
    server.step(None)
    assert server.x.tolist() == pytest.approx((2, 1), abs=0.1)


def asked(server: Server, models: LocalModels, deltas, participation: int) -> int:
    """Both clients, which have moved by these, are asked and answer; the server steps. Returns buckets too far."""
    wrapped = 0
    for client, delta in enumerate(deltas):
        models.model(client).add_(torch.tensor(delta))
        sent, out = np.zeros(32, np.uint8), np.zeros(32, np.uint8)
        size, key = server.download(sent, client=client, participation=participation)
        question = Question(sent[:size], key, server.version)
        size, key, found = models.answer(client, participation, question, out)
        server.receive(Update(client, server.version, out[:size], key))
        wrapped += found
    server.step(None)
    return wrapped


def test_three_steps_by_hand():
    """S = 2, a lattice of s = 1 and q = 16, all models within 7½ of each other; x = y_0 = y_1 = (0, 0).

    1: y_0 = (6, 0), y_1 = (0, 3): x = ((0, 0) + (6, 0) + (0, 3))/3 = (2, 1).
       With the x of before, (0, 0): y_0 = ⅔(6, 0) = (4, 0), y_1 = ⅔(0, 3) = (0, 2).
    2: y_0 = (4, 0) + (−1, 3) = (3, 3), y_1 = (0, 2) + (4, 0) = (4, 2): x = ((2, 1) + (3, 3) + (4, 2))/3 = (3, 2).
       y_0 = ((2, 1) + 2(3, 3))/3 = (8/3, 7/3), y_1 = ((2, 1) + 2(4, 2))/3 = (10/3, 5/3).
    3: y_0 = (8/3, 7/3) + (1/3, 2/3) = (3, 3), y_1 = (10/3, 5/3) + (−1/3, 1/3) = (3, 2):
       x = ((3, 2) + (3, 3) + (3, 2))/3 = (3, 7/3); y_0 = ((3, 2) + 2(3, 3))/3 = (3, 8/3), y_1 = (3, 2).
    """
    server, models = made(CodecConfig(codec="lattice", bits=4, spacing=1.0))
    steps = [
        ([(6.0, 0.0), (0.0, 3.0)], (2, 1), (4, 0), (0, 2)),
        ([(-1.0, 3.0), (4.0, 0.0)], (3, 2), (8 / 3, 7 / 3), (10 / 3, 5 / 3)),
        ([(1 / 3, 2 / 3), (-1 / 3, 1 / 3)], (3, 7 / 3), (3, 8 / 3), (3, 2)),
    ]
    for t, (deltas, x, *ys) in enumerate(steps):
        assert asked(server, models, deltas, t) == 0
        assert not server.findings
        assert server.x.tolist() == pytest.approx(x, abs=1e-6)
        for client, y in enumerate(ys):
            assert models.model(client).tolist() == pytest.approx(y, abs=1e-6)
            assert models.version(client) == t


def test_models_too_far_apart_are_found_at_both_ends_and_count_as_the_receiver_s_own():
    """q = 16: client 0 is 100 away. Its y is taken for x, and for it x is its y: x = ((0, 0) + (0, 0) + (0, 3))/3."""
    server, models = made(CodecConfig(codec="lattice", bits=4, spacing=1.0))
    found = []
    receive = server.receive
    server.receive = lambda update: (receive(update), found.extend(server.findings))[0]  # type: ignore[method-assign]
    assert asked(server, models, [(100.0, 0.0), (0.0, 3.0)], 0) == 1
    assert [(finding.at, finding.kind) for finding in found] == [(0, WRAPPED)]
    assert server.x.tolist() == pytest.approx((0, 1))
    assert models.model(0).tolist() == pytest.approx((100, 0))


def test_the_local_rate_makes_up_for_what_mixing_takes():
    """1 − 1/(S + 1) of a step is left: S = 1: half of it; S = 3: three quarters."""
    assert local_rate(0.1, 1) == pytest.approx(0.2)
    assert local_rate(0.3, 3) == pytest.approx(0.4)


def test_models_come_back_from_a_saved_state():
    server, models = made(CodecConfig(codec="lattice", bits=4, spacing=1.0))
    asked(server, models, [(6.0, 0.0), (0.0, 3.0)], 0)
    _, others = made(CodecConfig(codec="lattice", bits=4, spacing=1.0))
    others.restore(models.state())
    for client in range(2):
        assert torch.equal(others.model(client), models.model(client))
        assert others.version(client) == models.version(client)
    with pytest.raises(ValueError, match="is needed"):
        others.restore({0: (b"1234", 0)})
