"""How often: what the command line says."""

import pytest

from qafel_mpi.config_text import ConfigError
from qafel_mpi.drivers.survival.every import Every


def test_steps_seconds_never_and_what_is_left_to_the_program():
    assert Every.parsed("50") == Every(steps=50)
    assert Every.parsed("2.5s") == Every(seconds=2.5)
    assert Every.parsed("never") == Every(never=True)
    assert Every.parsed(None) == Every()


@pytest.mark.parametrize("text", ["0", "0s", "-3", "1.5", "s", "", "30 s", "5m", "١", "1e9s", "9" * 40])
def test_anything_else_is_refused_with_what_is_taken(text):
    with pytest.raises(ConfigError, match="a number of server steps"):
        Every.parsed(text)
