"""docs/results/replays.py: a run that replays is the same."""

from docs.results.replays import measured


def test_a_run_that_replays_to_its_own_model_is_the_same(trace):
    found = measured(trace)
    assert found["same"] is True
    assert (found["driver"], found["seed"], found["server_steps"]) == ("virtual", 3, 20)
