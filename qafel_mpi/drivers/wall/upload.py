"""An update on its way from the end of its training to MPI."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from qafel_mpi.codecs.base import Encoding
from qafel_mpi.transport.frames import Frame


class Upload(NamedTuple):
    """What is sent once its encoding is done. delta: what is encoded, untouched until then."""

    frame: Frame
    delta: Tensor
    encoding: Encoding
    key: int
    client: int
    participation: int
    version: int
    loss: float
    train_seconds: float
