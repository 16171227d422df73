"""eden's CPU kernels give the bytes of the reference, whatever the length, the settings and the threads."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.kernels import reference
from qafel_mpi.kernels.blocks import Blocks
from qafel_mpi.kernels.numba.eden import EdenKernels
from qafel_mpi.kernels.numba.rotation import RotationKernels
from qafel_mpi.kernels.plan import ELEMENTS_PER_THREAD

KEY = 0xFEDCBA9876543210


def vector(d: int, exponent: int = 0, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(d).clip(-3, 3) * 10.0**exponent
    x[seed % 7 :: 7] = 0
    x[d // 2 : d // 2 + 50] = 0
    return x.astype(np.float32)


def encoded(kernels: EdenKernels, x: np.ndarray, key: int = KEY) -> np.ndarray:
    size = 4 * kernels.blocks.buckets + kernels.blocks.padded * kernels.bits // 8
    payload = np.full(size, 0xA5, dtype=np.uint8)
    assert kernels.encode(x, payload, key) == -1
    return payload


@given(
    d=st.integers(1, 1500) | st.integers(2000, 5000) | st.integers(65_000, 70_000),
    bucket=st.sampled_from([128, 256, 4096]),
    bits=st.integers(1, 4),
    rotations=st.sampled_from([1, 2]),
    least_squares=st.booleans(),
    exponent=st.integers(-44, 37),
    key=st.integers(0, 2**64 - 1),
    kind=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=60)
def test_the_bytes_are_the_reference_s(d, bucket, bits, rotations, least_squares, exponent, key, kind):
    x, blocks = vector(d, exponent, seed=d), Blocks(d, bucket)
    options = {"rotations": rotations, "least_squares": least_squares}
    wanted = reference.encode_eden(x, blocks, bits, key, **options)
    kernels = EdenKernels(blocks, bits=bits, **options)
    payload = encoded(kernels, x.astype(kind), key)
    assert payload.tobytes() == wanted.tobytes()
    assert kernels.valid(payload)
    acc = vector(d, exponent, seed=1).astype(kind)
    total = acc + reference.decode_eden(
        wanted, blocks, bits, key, rotations=rotations, weight=0.3, dtype=kind
    )
    kernels.decode(payload, acc, 0.3, key, assign=False)
    assert acc.tobytes() == total.tobytes()
    q = reference.decode_eden(wanted, blocks, bits, key, rotations=rotations, dtype=kind)
    kernels.decode(payload, acc, 1.0, key, assign=True)
    assert acc.tobytes() == q.tobytes()
    sums = np.ones(blocks.padded, dtype=kind)
    kernels.sum(payload, sums, 0.3)
    rotated = reference.decode_eden_rotated(wanted, blocks, bits, weight=0.3, dtype=kind)
    assert sums.tobytes() == (1 + rotated).astype(kind).tobytes()


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_step_sends_the_difference_and_moves_by_what_it_sends(kind):
    blocks = Blocks(5000, 128)
    kernels = EdenKernels(blocks, bits=2, rotations=1, least_squares=True)
    x, state = vector(5000, seed=1).astype(kind), vector(5000, seed=2).astype(kind)
    payload = encoded(kernels, (x - state).astype(np.float32))
    moved = state.copy()
    kernels.decode(payload, moved, 1.0, KEY, assign=False)
    out = np.zeros_like(payload)
    assert kernels.step(x, state, out, KEY) == -1
    assert out.tobytes() == payload.tobytes()
    assert state.tobytes() == moved.tobytes()


def test_two_threads_give_the_bytes_of_one():
    d = 2 * ELEMENTS_PER_THREAD + 1003
    one, two = (
        EdenKernels(Blocks(d, 512), bits=2, rotations=1, least_squares=False, threads=threads)
        for threads in (1, 2)
    )
    assert len(two._shares) == 2
    x = vector(d)
    payload = encoded(one, x)
    assert encoded(two, x).tobytes() == payload.tobytes()
    a, b = np.ones((2, d), np.float32)
    one.decode(payload, a, 0.5, KEY, assign=False)
    two.decode(payload, b, 0.5, KEY, assign=False)
    assert (a == b).all()


@pytest.mark.parametrize("where", [0, 2048, 2999])  # a whole block, the last one's first and last element
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_reported(where, bad):
    kernels = EdenKernels(Blocks(3000, 128), bits=1, rotations=1, least_squares=False)
    x = vector(3000)
    x[where] = bad
    assert kernels.encode(x, np.zeros(2000, np.uint8), KEY) >= 0


@given(
    d=st.integers(1, 1500) | st.integers(60_000, 70_000),
    bucket=st.sampled_from([8, 128, 4096]),
    kind=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=30)
def test_a_rotation_keeps_norms_and_is_turned_back(d, bucket, kind):
    blocks, x = Blocks(d, bucket), vector(d, seed=d).astype(kind)
    kernels = RotationKernels(blocks, np.dtype(kind))
    y, again = np.full(blocks.padded, np.nan, kind), np.full(d, np.nan, kind)
    kernels.forward(x, y, KEY)
    kernels.back(y, again, KEY)
    assert np.isclose(np.linalg.norm(y), np.linalg.norm(x), rtol=1e-5)
    assert np.abs(again - x).max() <= 1e-5 * np.abs(x).max(initial=0)


def test_sums_are_turned_back_with_the_bits_of_the_reference():
    blocks = Blocks(3000, 128)
    sums, out = vector(blocks.padded), np.zeros(3000, np.float32)
    RotationKernels(blocks, np.dtype(np.float32), unit=False).back(sums, out, KEY)
    assert out.tobytes() == reference.rotate_back(sums, blocks, KEY).tobytes()
