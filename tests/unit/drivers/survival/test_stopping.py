"""A training that is abandoned."""

import pytest

from qafel_mpi.drivers.survival.stopping import Guarded, Stopped, StopsWhen


def test_a_training_that_is_about_to_end_may_do_so():
    over = False
    poll = StopsWhen(lambda: over, grace_s=60.0)
    poll()
    over = True
    poll()


def test_what_a_poll_raises_is_told_from_a_failure_of_the_training():
    def fails() -> None:
        raise ValueError("of the poll")

    guarded = Guarded(fails)
    with pytest.raises(ValueError, match="of the poll") as raised:
        guarded()
    assert raised.value is guarded.error


def test_a_training_that_goes_on_is_abandoned_and_code_that_handles_exceptions_does_not_notice():
    poll = StopsWhen(lambda: True, grace_s=0.0)

    def of_the_users_own() -> None:
        try:
            poll()
        except Exception:
            pytest.fail("Stopped is no Exception")

    with pytest.raises(Stopped):
        of_the_users_own()
