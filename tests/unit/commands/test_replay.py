"""What `qafel-mpi replay` prints of a verdict."""

from dataclasses import replace

from qafel_mpi.commands.replay import text
from qafel_mpi.drivers.replay.verdict import Verdict

DIFFERS = Verdict(
    "differs",
    "a.h5",
    3,
    1,
    3,
    False,
    "0",
    "1",
    None,
    None,
    None,
    {"upload": 3},
    "upload 3 differs",
    1,
    ranks=2,
)


def test_on_several_ranks_it_says_how_to_learn_which_side_erred():
    assert "which side erred  a replay in one process" in text(DIFFERS)
    assert "which side erred" not in text(replace(DIFFERS, ranks=1))
    assert "which side erred" not in text(replace(DIFFERS, outcome="the same", first=None, first_text=""))


def test_trainings_that_were_right_at_the_second_attempt_are_said():
    found = replace(
        DIFFERS, outcome="the same", first=None, first_text="", slips=2, slip_text="upload 7 differs"
    )
    assert "trained twice     2 uploads: upload 7 differs" in text(found)
    assert "trained twice" not in text(DIFFERS)
