"""eden as torch operations gives the bytes of the reference, and rotations the bits of the CPU's kernels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.kernels import eager_eden, reference
from qafel_mpi.kernels.blocks import Blocks
from qafel_mpi.kernels.eager_eden import EagerEden
from qafel_mpi.kernels.numba.rotation import RotationKernels
from tests.unit.kernels.numba.test_eden import KEY, vector


@given(
    d=st.integers(1, 1500) | st.integers(2000, 5000),
    bucket=st.sampled_from([128, 256, 1024]),
    bits=st.integers(1, 4),
    rotations=st.sampled_from([1, 2]),
    least_squares=st.booleans(),
    exponent=st.integers(-44, 37),
)
@settings(max_examples=40)
def test_torch_operations_give_the_bytes_of_the_reference(
    d, bucket, bits, rotations, least_squares, exponent
):
    x, blocks = vector(d, exponent, seed=d), Blocks(d, bucket)
    options = {"rotations": rotations, "least_squares": least_squares}
    wanted = reference.encode_eden(x, blocks, bits, KEY, **options)
    kernels = EagerEden(blocks, bits=bits, **options)
    payload = torch.full((wanted.size,), 0xA5, dtype=torch.uint8)
    assert kernels.encode(torch.from_numpy(x), payload, KEY)
    assert payload.numpy().tobytes() == wanted.tobytes()
    for kind in (np.float32, np.float64):
        acc = vector(d, exponent, seed=1).astype(kind)
        more = reference.decode_eden(wanted, blocks, bits, KEY, rotations=rotations, weight=0.3, dtype=kind)
        total, state = acc + more, torch.from_numpy(acc)
        kernels.decode(payload, state, 0.3, assign=False, key=KEY)
        assert state.numpy().tobytes() == total.tobytes()
    sums = torch.zeros(blocks.padded)
    kernels.sum(payload, sums, 0.3)
    rotated = reference.decode_eden_rotated(wanted, blocks, bits, weight=0.3)
    assert sums.numpy().tobytes() == (0 + rotated).tobytes()


def test_what_is_not_finite_is_reported():
    kernels = EagerEden(Blocks(300, 128), bits=2, rotations=1, least_squares=False)
    x = torch.ones(300)
    x[7] = float("inf")
    assert not kernels.encode(x, torch.zeros(200, dtype=torch.uint8), KEY)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit", [True, False])
def test_rotations_have_the_bits_of_the_cpu_s(dtype, unit):
    blocks, x = Blocks(5000, 128), torch.from_numpy(vector(5000)).to(dtype)
    kernels = RotationKernels(blocks, x.numpy().dtype, unit=unit)
    y, again = torch.zeros(blocks.padded, dtype=dtype), torch.zeros(5000, dtype=dtype)
    kernels.forward(x.numpy(), y.numpy(), KEY)
    assert torch.equal(eager_eden.rotate(x, blocks, KEY, unit=unit), y)
    kernels.back(y.numpy(), again.numpy(), KEY)
    assert torch.equal(eager_eden.rotate_back(y, blocks, KEY, unit=unit), again)
