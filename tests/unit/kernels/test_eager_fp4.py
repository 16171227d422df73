"""fp4 on the CPU and as torch operations gives the bytes and the sums of the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qafel_mpi.kernels.eager_fp4 import EagerFp4
from qafel_mpi.kernels.numba.fp4 import Fp4Kernels
from qafel_mpi.kernels.plan import ELEMENTS_PER_THREAD
from qafel_mpi.kernels.reference_fp4 import MX, NV, decode_fp4, encode_fp4

KEY = 0xFEDCBA9876543210
KINDS = pytest.mark.parametrize(("kind", "nearest"), [(k, n) for k in (MX, NV) for n in (False, True)])


def vector(d: int, magnitude: float) -> np.ndarray:
    """Blocks of very different sizes, zeros of both signs, and the largest floats where they are huge."""
    rng = np.random.default_rng(d)
    x = rng.standard_normal(d).clip(-1, 1) * magnitude
    x[d // 2 :] *= rng.random(d - d // 2) ** 8
    x[3::7], x[5::7] = 0, -0.0
    x[d // 3 : d // 3 + 40] = 0
    return x.astype(np.float32)


@KINDS
@pytest.mark.parametrize("d", [1, 32, 33, 4096, 9001])
@pytest.mark.parametrize("magnitude", [1, 1e-41, 1e-36, 3.4e38])
def test_kernels_give_the_bytes_of_the_reference(d, magnitude, kind, nearest):
    x = vector(d, magnitude)
    wanted = encode_fp4(x, kind, nearest, KEY)
    ours, theirs = Fp4Kernels(d, kind=kind, nearest=nearest), EagerFp4(d, kind=kind, nearest=nearest)
    for dtype in (np.float32, np.float64):
        out, payload = np.full(wanted.size, 255, np.uint8), torch.full((wanted.size,), 255, dtype=torch.uint8)
        assert ours.encode(x.astype(dtype), out, KEY) == -1
        assert bool(theirs.encode(torch.from_numpy(x.astype(dtype)), payload, KEY))
        assert out.tobytes() == wanted.tobytes() == payload.numpy().tobytes()
        state = vector(d, 1).astype(dtype)
        moved = torch.from_numpy(state.copy())
        ours.decode(out, state, 0.3, assign=False)
        theirs.decode(payload, moved, 0.3, assign=False)
        assert moved.numpy().tobytes() == state.tobytes()
    q = np.full(d, np.nan, np.float32)
    ours.decode(wanted, q, 1.0, assign=True)
    assert np.isfinite(q).all()
    assert (q == decode_fp4(wanted, d, kind)).all()


@KINDS
def test_threads_change_no_byte(kind, nearest):
    x = vector(2 * ELEMENTS_PER_THREAD + 77, 1)
    outs = []
    for threads in (1, 2):
        kernels = Fp4Kernels(x.size, kind=kind, nearest=nearest, threads=threads)
        assert len(kernels._shares) == threads
        outs.append(np.zeros(kernels.codes_at + -(-x.size // 2), np.uint8))
        kernels.encode(x, outs[-1], KEY)
    assert outs[0].tobytes() == outs[1].tobytes()
