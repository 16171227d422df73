"""What the uplink's quantizer does to each update, on request (trace.encoding_error): rows of /encodings."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from qafel_mpi.codecs import Codec
from qafel_mpi.drivers.build import Setup
from qafel_mpi.kernels.memory import vector_like
from qafel_mpi.kernels.numba.norms import distance, norm
from qafel_mpi.trace.recorder import Recorder, Table


class EncodingErrors:
    """Decodes what was encoded and records how far it is off, outside of the times that the trace has of encoding."""

    def __init__(self, codec: Codec, table: Table):
        self._codec, self._table = codec, table
        self._decoded: Tensor | None = None

    @classmethod
    def of(cls, setup: Setup, recorder: Recorder) -> EncodingErrors | None:
        """None where the experiment does not ask for it."""
        wanted = setup.experiment.trace.encoding_error
        return cls(setup.uplink, recorder.encodings) if wanted else None

    def add(
        self, vector: Tensor, payload: np.ndarray | Tensor, key: int, client: int, participation: int
    ) -> None:
        """vector: (d,), what was encoded. payload: what came of it, of exactly its bytes, on any device."""
        if isinstance(payload, Tensor):
            payload = payload.cpu().numpy()
        if self._decoded is None:
            self._decoded = vector_like(vector)
        self._codec.decode(payload, self._decoded, key)
        self._table.append((client, participation, norm(vector), distance(self._decoded, vector)))
