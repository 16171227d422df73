import pytest
from ternary import Ternary

from qafel_mpi.testing import CodecContract


class TestTernary(CodecContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls):
        return Ternary
