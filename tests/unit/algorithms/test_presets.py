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


def take(server: Server, *uploads: tuple[int, tuple[float, float]]) -> list[float]:
    """x after a step on these uploads, each with the version that it started from."""
    for version, value in uploads:
        server.receive(Update(0, version, np.array(value, "<f4").view(np.uint8), 0))
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
