"""Seeds of the simulation. A seed that breaks an invariant is kept here as a case of its own."""

import pytest

from tests.simulation.wall import KINDS, Scenario, judge, simulate

SEEDS = 300
AT_ONCE = 50  # seeds a test


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_a_run_keeps_its_invariants(first, kind):
    for seed in range(first, first + AT_ONCE):
        try:
            judge(simulate(Scenario.drawn(seed, kind)))
        except Exception as error:
            error.add_note(f"seed {seed}: python -m tests.simulation {seed} 1")
            raise
