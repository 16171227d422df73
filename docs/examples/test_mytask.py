import mytask
import pytest

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.testing import DatasetContract, ModelContract


class TestData(DatasetContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        return mytask.data


class TestModel(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        return mytask.model

    @pytest.fixture(scope="class")
    @classmethod
    def data(cls):
        return mytask.data(TaskConfig(), None, clients=4, seed=0)
