"""A SLURM for the tests of one file that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.system import slurm as slurm_module
from tests.system.slurm import Slurm


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if reason := slurm_module.missing():
        pytest.skip(reason)
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.cancel()
        cluster.stop()
