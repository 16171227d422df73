"""Simulated runs done again from their rows: what the protocol can meet, seed by seed, without a launch of MPI.

Faults, catch-ups, broadcasts, populations and interrupts are the scenarios' own.
"""

from dataclasses import replace

import pytest

from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.codecs import CODECS
from tests.simulation.replay import check_replay
from tests.simulation.wall import Scenario, judge, simulate

SEEDS = 10
ROUNDS = ("task.clients=30", "client.draw=permutation", "server.buffer_size=4")
QUORUM = ("server.buffer_size=4", "server.quorum=2")
SPARSE = ("uplink.fraction=0.2", "downlink.fraction=0.1")
FEEDBACK = ("algorithm=qafel-ef", "server.buffer_size=3")
NEEDS = {"fedavg": ROUNDS, "fedpaq": ROUNDS, "decoupled": QUORUM}
CODECS_NEED = {
    "topk": SPARSE,
    "randk": SPARSE,
    "lattice": ("uplink.spacing=0.05", "downlink.spacing=0.05"),
    "fixed": ("uplink.spacing=0.05", "downlink.spacing=0.05", "staleness.weight=constant"),
}
SETTINGS = {
    # Of a server that asks no trace can be replayed.
    **{name: (f"algorithm={name}", *NEEDS.get(name, ())) for name in PRESETS if name != "quafl"},
    **{
        name: (
            "algorithm=qafel",
            f"uplink.codec={name}",
            f"downlink.codec={name}",
            *CODECS_NEED.get(name, ()),
        )
        for name in CODECS
    },
    "zstd": ("algorithm=qafel", "uplink.entropy=zstd"),
    "8 bits kept": (
        *FEEDBACK,
        "client.error_bits=8",
        "client.error_decay=0.9",
        "uplink.codec=topk",
        "uplink.fraction=0.2",
    ),
    "unicast": ("algorithm=naive", "downlink.delivery=unicast", "transport.broadcast=fanout"),
    "clipped": ("algorithm=qafel", "server.clip_norm=1.0"),
    "rejected": ("algorithm=qafel", "server.reject_norm=1.15"),
    "rejected, error feedback": (*FEEDBACK, "server.reject_norm=1.15"),
}


def scenarios(name):
    for seed in range(SEEDS):
        drawn = Scenario.drawn(seed, ("quiet", "damaged")[seed % 2])
        settings = [each for each in drawn.settings if not each.startswith("algorithm=")]
        yield replace(drawn, settings=(*settings, *SETTINGS[name]))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_simulated_run_is_done_again_bit_for_bit(name):
    handed = 0
    for scenario in scenarios(name):
        run = simulate(scenario)
        if name != "unicast":  # its ranks end with different hidden states
            judge(run)
        try:
            handed += check_replay(run).at
        except Exception as error:
            error.add_note(str(scenario))
            raise
    assert handed > 50
