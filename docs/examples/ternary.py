"""TernGrad (Wen et al., NeurIPS 2017, arXiv 1705.07878): an element becomes -1, 0 or 1 times the largest one."""

import numpy as np
import torch

from qafel_mpi.codecs import Codec, PayloadError
from qafel_mpi.kernels.reference import uniform16

SIGNS = np.array([0, 1, -1], np.float32)  # what the codes 0, 1 and 2 stand for
SHIFTS = np.array([0, 2, 4, 6], np.uint8)


class Ternary(Codec):
    """Payload: the largest magnitude as float32, then two bits an element, four elements a byte."""

    name, id, unbiased, bits = "ternary", 200, True, 2
    decodes_finite = True  # validate refuses scales that are not finite

    def payload_bytes(self):
        return 4 + -(-self.layout.elements // 4)

    def encode(self, x, out, key):
        self.require_finite(x.float())
        values = x.cpu().numpy().astype(np.float32)
        scale = np.abs(values).max()
        draws = uniform16(key, np.arange(values.size)) / 65536  # in [0, 1), the same on every rank
        kept = draws * scale < np.abs(values)
        codes = np.zeros(4 * (self.payload_bytes() - 4), np.uint8)
        codes[: values.size] = np.where(kept, np.where(values > 0, 1, 2), 0)
        out[:4] = np.frombuffer(scale.tobytes(), np.uint8)
        out[4 : self.payload_bytes()] = (codes.reshape(-1, 4) << SHIFTS).sum(axis=1)
        return self.payload_bytes()

    def validate(self, payload):
        super().validate(payload)  # its length
        if (self.codes(payload) > 2).any() or not 0 <= self.scale(payload) < np.inf:
            raise PayloadError("ternary: a code of 3, or a scale that is negative or not finite")
        return payload

    def _decode(self, valid, acc, weight, key, *, assign):
        values = torch.from_numpy(self.scale(valid) * SIGNS[self.codes(valid)]).to(acc)
        acc.copy_(values) if assign else acc.add_(values, alpha=weight)

    def codes(self, payload):
        return ((payload[4:, None] >> SHIFTS) & 3).reshape(-1)[: self.layout.elements]

    def scale(self, payload):
        return payload[:4].copy().view("<f4")[0]
