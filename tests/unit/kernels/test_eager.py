"""The torch kernels give the bytes of the reference and of the CPU's, on the CPU as on any device."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.kernels import plan, reference
from qafel_mpi.kernels.eager import EagerAffine, EagerKernels
from qafel_mpi.kernels.reference import L2, LINF, MEAN


def vector(d: int, exponent: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal(d).clip(-3, 3) * 10.0**exponent
    x[seed % 7 :: 7] = 0
    x[d // 2 : d // 2 + 50] = 0
    return x.astype(np.float32)


@given(
    d=st.integers(1, 2000) | st.integers(8000, 9500),
    bucket=st.sampled_from([24, 100, 512, 4096, 4097, 10**6]),
    bits=st.integers(1, 16),
    kind=st.sampled_from([LINF, L2, MEAN]),
    exponent=st.integers(-44, 37),
    key=st.integers(0, 2**64 - 1),
)
@settings(max_examples=100)
def test_torch_operations_give_the_bytes_of_the_reference(d, bucket, bits, kind, exponent, key):
    bits = 1 if kind == MEAN else bits
    s, starts = max(1, 2 ** (bits - 1) - 1), np.append(np.arange(0, d, bucket), d)
    x = vector(d, exponent, seed=d)
    expected = reference.encode_qsgd(x, starts, bits, s, kind, key)
    kernels = EagerKernels(plan.plan(starts), bits=bits, s=s, kind=kind)
    payload = torch.full((expected.size,), 0xA5, dtype=torch.uint8)
    assert kernels.encode(torch.from_numpy(x), payload, key)
    assert payload.numpy().tobytes() == expected.tobytes()
    for dtype in (np.float32, np.float64):
        acc = vector(d, exponent, seed=1).astype(dtype)
        total = acc + reference.decode_qsgd(expected, starts, bits, s, weight=0.3, dtype=dtype)
        state = torch.from_numpy(acc)
        kernels.decode(payload, state, 0.3, assign=False)
        assert state.numpy().tobytes() == total.tobytes()
        kernels.decode(payload, state, 1.0, assign=True)
        assert (
            state.numpy().tobytes() == reference.decode_qsgd(expected, starts, bits, s, dtype=dtype).tobytes()
        )


def test_the_step_moves_the_state_by_what_it_sends():
    kernels = EagerKernels(plan.plan(np.array([0, 512, 700])), bits=4, s=7, kind=LINF)
    payload = torch.zeros(8 + 350, dtype=torch.uint8)
    x, x_hat = (torch.from_numpy(vector(700, 0, seed)) for seed in (1, 2))
    expected = x_hat.clone()
    assert kernels.step(x, x_hat, payload, 5)
    kernels.decode(payload, expected, 1.0, assign=False)
    assert torch.equal(x_hat, expected)


def test_what_is_not_finite_is_reported():
    kernels = EagerKernels(plan.plan(np.array([0, 3])), bits=4, s=7, kind=LINF)
    payload = torch.zeros(6, dtype=torch.uint8)
    assert not kernels.encode(torch.tensor([1.0, float("nan"), 2.0]), payload, 5)


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 40)) | st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1
    ),
    bits=st.integers(1, 8),
    exponent=st.integers(-44, 37),
    bucket=st.sampled_from(["layer", 1, 3, 8, 20]),
)
@settings(max_examples=60)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_affine_gives_the_bytes_of_the_cpu_kernels(shapes, bits, exponent, bucket, dtype):
    layout = Layout(tuple(f"t{i}" for i in range(len(shapes))), tuple(shapes))
    codec = build(CodecConfig(codec="affine", bits=bits, bucket=bucket), layout)
    eager = EagerAffine(codec._cpu.wide, codec._cpu.plain, bits=bits)
    x = torch.from_numpy(vector(layout.elements, exponent, seed=bits))
    out = np.full(codec.payload_bytes(), 0xA5, dtype=np.uint8)
    codec.encode(x, out, 0)
    payload = torch.full((out.size,), 0x5A, dtype=torch.uint8)
    assert eager.encode(x, payload)
    assert payload.numpy().tobytes() == out.tobytes()
    for weight, assign in ((0.3, False), (1.0, True)):
        ours, theirs = (torch.ones(layout.elements, dtype=dtype) * 10.0**exponent for _ in range(2))
        codec._cpu.decode(out, ours.numpy(), weight, assign=assign)
        eager.decode(payload, theirs, weight, assign=assign)
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("bits", range(1, 9))
def test_affine_writes_long_tensors_segment_by_segment_without_a_byte_beyond(bits):
    layout = Layout(("long", "bias", "last"), ((3, 4111), (5,), (2, 4096)))
    codec = build(CodecConfig(codec="affine", bits=bits), layout)
    x = torch.from_numpy(vector(layout.elements, 0, seed=bits))
    room = np.full(codec.payload_bytes() + 16, 0xA5, dtype=np.uint8)
    assert codec.encode(x, room[:-16], 0) == room.size - 16
    payload = torch.zeros(room.size - 16, dtype=torch.uint8)
    assert EagerAffine(codec._cpu.wide, codec._cpu.plain, bits=bits).encode(x, payload)
    assert payload.numpy().tobytes() == room[:-16].tobytes()
    assert (room[-16:] == 0xA5).all()
