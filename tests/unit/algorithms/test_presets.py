"""Presets of FedBuff's variants, three steps each on two numbers."""

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.presets import DEFINING, PRESETS
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build

FULL = build(CodecConfig(codec="identity"), Layout(("w",), ((2,),)))


def server_of(preset: str, *, clients: int, exponent: float = 0.5, **settings) -> Server:
    made = PRESETS[preset]
    weight = made.get("staleness", {"exponent": exponent})
    config = ServerConfig(**made.get("server", {}) | settings)
    replica = Replica(torch.zeros(2), FULL, assigns=True)
    return Server(torch.zeros(2), FULL, replica, config, StalenessConfig(**weight), seed=0, clients=clients)


def take(
    server: Server, *uploads: tuple[int, tuple[float, float]], examples: int | list[int] = 1
) -> list[float]:
    """x after a step on these uploads, each with the version that it started from."""
    each = [examples] * len(uploads) if isinstance(examples, int) else examples
    for (version, value), n in zip(uploads, each, strict=True):
        server.receive(Update(0, version, np.array(value, "<f4").view(np.uint8), 0, n))
    server.step(np.zeros(8, np.uint8))
    return server.x.tolist()


def test_every_preset_says_what_defines_it():
    assert PRESETS.keys() == DEFINING.keys()


def test_fedbuff_as_nvflare_runs_it():
    """K = 1, η_g = 1.

    1: τ = 0: s = 1/2, x = ½·(2, 4) = (1, 2).
    2: τ = 1: s = 1/(1 + √2) = 0.414214, x = (1, 2) + s·(2, 2) = (1.82843, 2.82843).
    3: τ = 2: s = 1/(1 + √3) = 0.366025, x = (1.82843, 2.82843) + s·(3, 3) = (2.92650, 3.92650).
    """
    server = server_of("fedbuff-nvflare", clients=1, buffer_size=1)
    assert take(server, (0, (2, 4))) == [1, 2]
    assert take(server, (0, (2, 2))) == pytest.approx([1.8284271, 2.8284271])
    assert take(server, (0, (3, 3))) == pytest.approx([2.9265033, 3.9265033])


def test_fedbuff_as_appfl_runs_it():
    """n = 4 clients, K = 2, α = 1, s(τ) = 1/(1 + τ); clients send their models y.

    1: y = (4, 0), (0, 4), both τ = 0: x = ((4, 0) + (0, 4))/4 = (1, 1).
    2: y = (5, 1), τ = 0; (1, 5), τ = 1: x = (1, 1) + ((4, 0) + ½·(0, 4))/4 = (2, 1½).
    3: y = (6, 1½), τ = 1; (2, 5½), τ = 0: x = (2, 1½) + (½·(4, 0) + (0, 4))/4 = (2½, 2½).
    """
    server = server_of("fedbuff-appfl", clients=4, exponent=1.0, buffer_size=2)
    assert take(server, (0, (4, 0)), (0, (0, 4))) == [1, 1]
    assert take(server, (1, (5, 1)), (0, (1, 5))) == [2, 1.5]
    assert take(server, (1, (6, 1.5)), (2, (2, 5.5))) == [2.5, 2.5]


def test_decoupled_diloco():
    """K_min = 2, K = 3, η_g = 1, β = ½; the weights are the clients' examples.

    1: n = 1: (4, 0); n = 3: (0, 4): u = ((4, 0) + 3·(0, 4))/4 = (1, 3) = m; x = u + ½m = (1½, 4½).
    2: n = 1: (4, 0); n = 1: (0, 4); n = 2: (2, 2): u = (8, 8)/4 = (2, 2); m = ½(1, 3) + u = (2½, 3½);
       x = (1½, 4½) + (2, 2) + ½(2½, 3½) = (4¾, 8¼).
    3: n = 1: (2, 0); n = 1: (0, −2): u = (1, −1); m = ½(2½, 3½) + u = (2¼, ¾);
       x = (4¾, 8¼) + (1, −1) + ½(2¼, ¾) = (6⅞, 7⅝).
    """
    server = server_of("decoupled", clients=3, buffer_size=3, quorum=2, learning_rate=1.0, momentum=0.5)
    assert take(server, (0, (4, 0)), (0, (0, 4)), examples=[1, 3]) == [1.5, 4.5]
    assert take(server, (1, (4, 0)), (1, (0, 4)), (1, (2, 2)), examples=[1, 1, 2]) == [4.75, 8.25]
    assert take(server, (2, (2, 0)), (2, (0, -2))) == [6.875, 7.625]


def test_a_quorum_leaves_the_step_to_who_has_a_clock_until_all_are_in():
    server = server_of("decoupled", clients=3, buffer_size=3, quorum=2)
    seen = [(server.quorate, server.full, server.room)]
    for _ in range(3):
        server.receive(Update(0, 0, np.zeros(8, np.uint8), 0))
        seen.append((server.quorate, server.full, server.room))
    assert seen == [(False, False, 2), (False, False, 1), (True, False, 1), (False, True, 0)]
