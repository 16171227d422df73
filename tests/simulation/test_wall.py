"""Seeds of the simulation. A seed that breaks an invariant is kept here as a case of its own."""

import pytest

from tests.simulation.wall import KINDS, Scenario, judge, simulate

SEEDS = {"quiet": 300, "damaged": 300, "wild": 300, "deadly": 100}
AT_ONCE = 50  # seeds a test


@pytest.mark.parametrize(
    ("first", "kind"), [(first, kind) for kind in KINDS for first in range(0, SEEDS[kind], AT_ONCE)]
)
def test_a_run_keeps_its_invariants(first, kind):
    for seed in range(first, first + AT_ONCE):
        try:
            judge(simulate(Scenario.drawn(seed, kind)))
        except Exception as error:
            error.add_note(f"seed {seed}: python -m tests.simulation {seed} 1")
            raise


@pytest.mark.parametrize("seed", [52, 410, 971, 1252, 1553, 1715, 2224])
def test_seeds_that_broke_an_invariant_break_none_any_more(seed):
    """Two deaths before a round's quotas hold, spare ranks that die, and a round in which nobody is left to play."""
    judge(simulate(Scenario.drawn(seed, "deadly")))
