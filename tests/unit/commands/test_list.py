"""The list of experiments says whose data are missing."""

from __future__ import annotations

import pytest

from qafel_mpi.commands.list import DATA_FILES
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import DATASETS
from qafel_mpi.tasks.errors import DataError


@pytest.mark.parametrize("dataset", DATA_FILES)
def test_the_list_looks_for_the_files_that_the_loaders_read(dataset, tmp_path):
    for file in DATA_FILES[dataset]:
        folder = tmp_path / file.replace(".", "-")
        (folder / file).mkdir(parents=True)
        with pytest.raises((DataError, OSError)) as caught:
            DATASETS[dataset](TaskConfig(dataset=dataset), folder, 1, 0)
        assert f"{DATA_FILES[dataset][0]} not found" not in str(caught.value)
