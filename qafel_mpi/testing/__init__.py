"""Contract tests for code of your own: codecs, data sets, models. The package's own pass the same ones.

    from qafel_mpi.testing import CodecContract

    class TestMyCodec(CodecContract):
        @pytest.fixture(scope="class")
        @classmethod
        def make(cls):
            return MyCodec

Needs pytest and hypothesis: pip install 'qafel-mpi[test]'.
"""

from __future__ import annotations

from qafel_mpi.testing.codecs import CodecContract
from qafel_mpi.testing.near import NearCodecContract
from qafel_mpi.testing.strategies import damage, layouts, vectors
from qafel_mpi.testing.tasks import DatasetContract, ModelContract, TrainingContract

__all__ = [
    "CodecContract",
    "DatasetContract",
    "ModelContract",
    "NearCodecContract",
    "TrainingContract",
    "damage",
    "layouts",
    "vectors",
]
