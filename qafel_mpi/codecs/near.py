"""Codecs whose payloads are decoded against a reference: a vector near the one that was sent, at the receiver."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
from torch import Tensor

from qafel_mpi.codecs.base import Codec


class NearCodec(Codec):
    """What `decode` and its like give is decoded near zero. wrapped: parts of payloads that were too far from what
    they were decoded near, since the codec was made; each counts as its reference, and is wrong nowhere else."""

    @abstractmethod
    def decode_near(self, payload: np.ndarray, reference: Tensor, out: Tensor, key: int) -> int:
        """out[:] = Q(x), finite, where x lies near the reference, (d,), which may be out itself.

        Returns how many parts of the payload were too far: they are the reference's in out. Raises PayloadError, and
        then out is as it was.
        """


def decode_near(codec: Codec, payload: np.ndarray, reference: Tensor, out: Tensor, key: int) -> int:
    """NearCodec.decode_near, of any codec: one that needs no reference is never too far from it."""
    if isinstance(codec, NearCodec):
        return codec.decode_near(payload, reference, out, key)
    codec.decode(payload, out, key)
    return 0
