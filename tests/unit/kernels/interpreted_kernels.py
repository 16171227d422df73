"""The Triton kernels under Triton's interpreter, against the CPU's. test_kernels_gpu.py runs this file in a process
of its own, because TRITON_INTERPRET=1 must be set before triton is imported."""

import os

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.kernels import gpu, plan
from qafel_mpi.kernels.blocks import Blocks
from qafel_mpi.kernels.numba import buckets as cpu
from qafel_mpi.kernels.numba.eden import EdenKernels
from qafel_mpi.kernels.numba.fp4 import Fp4Kernels
from qafel_mpi.kernels.reference import L2, LINF, MEAN
from qafel_mpi.kernels.reference_fp4 import MX, NV, fp4_bytes
from qafel_mpi.kernels.triton.affine import FusedAffine
from qafel_mpi.kernels.triton.buckets import FusedKernels
from qafel_mpi.kernels.triton.eden import FusedEden
from qafel_mpi.kernels.triton.fp4 import FusedFp4
from tests import pretended_gpu

assert os.environ.get("TRITON_INTERPRET") == "1", "run test_kernels_gpu.py"

CPU = torch.device("cpu")
KEY = 0xFEDCBA9876543210
# Length, bucket: d = 1; odd lengths in buckets of odd and of usual length; many small ones; a bucket of two segments.
CUTS = [(1, 512), (601, 512), (103, 50), (29, 8), (4601, 4500)]
KINDS = [*((bits, kind) for bits in range(1, 9) for kind in (LINF, L2)), (1, MEAN)]


def vector(d: int, exponent: int) -> np.ndarray:
    x = np.random.default_rng(d).standard_normal(d).clip(-3, 3) * 10.0**exponent
    x[3::7] = 0
    x[d // 2 : d // 2 + 20] = 0
    return x.astype(np.float32)


@pytest.mark.parametrize(("d", "bucket"), CUTS)
@pytest.mark.parametrize(("bits", "kind"), KINDS)
def test_triton_gives_the_bytes_of_the_cpu(d, bucket, bits, kind):
    exponent = {0: 0, 1: -41, 2: 37}[(d + bits) % 3]  # ordinary, denormal, huge
    cut, s = plan.plan(np.append(np.arange(0, d, bucket), d)), max(1, 2 ** (bits - 1) - 1)
    ours = cpu.BucketKernels(cut, bits=bits, s=s, kind=kind)
    theirs = FusedKernels(cut, bits=bits, s=s, kind=kind, device=CPU)
    x = vector(d, exponent)
    out = np.zeros(4 * cut.buckets + cut.code_bytes(bits), dtype=np.uint8)
    ours.encode(x, out, KEY)
    payload = torch.full((out.size,), 0xA5, dtype=torch.uint8)
    assert int(theirs.encode(torch.from_numpy(x), payload, KEY)) == 1
    assert payload.numpy().tobytes() == out.tobytes()

    dtype = (np.float32, np.float64)[bits % 2]
    state = vector(d, exponent).astype(dtype)[::-1].copy()
    moved = torch.from_numpy(state.copy())
    ours.decode(out, state, 0.3, assign=False)
    theirs.decode(payload, moved, 0.3, assign=False)
    assert moved.numpy().tobytes() == state.tobytes()
    if cut.single:
        assert ours.step(x.astype(dtype), state, out, KEY) == -1
        theirs.step(torch.from_numpy(x.astype(dtype)), moved, payload, KEY)
        assert payload.numpy().tobytes() == out.tobytes()
        assert moved.numpy().tobytes() == state.tobytes()
    ours.decode(out, state, 1.0, assign=True)
    theirs.decode(payload, moved, 1.0, assign=True)
    assert moved.numpy().tobytes() == state.tobytes()


@pytest.mark.parametrize(("bits", "bucket"), [(4, 512), (3, 4500)])
def test_what_gpu_py_hands_out_and_takes_in_is_the_cpu_s(monkeypatch, bits, bucket):
    """To a page-locked buffer, and behind a header on the device; the next vector may change meanwhile."""
    pretended_gpu.pretend(monkeypatch, triton=True)
    d = 4601
    cut, s = plan.plan(np.append(np.arange(0, d, bucket), d)), 2 ** (bits - 1) - 1
    ours, x = cpu.BucketKernels(cut, bits=bits, s=s, kind=LINF), vector(d, 0)
    wanted = np.zeros(4 * cut.buckets + cut.code_bytes(bits), dtype=np.uint8)
    theirs = gpu.DeviceKernels(gpu.bucket_kernels(cut, bits, s, LINF, CPU), wanted.size, CPU)
    ours.encode(x, wanted, KEY)
    message = torch.zeros(64 + wanted.size, dtype=torch.uint8)
    for out in (np.zeros_like(wanted), message[64:]):
        encoding = theirs.begin(torch.from_numpy(x), out, KEY)
        while not encoding.ready():
            pass
        assert encoding.finish() == -1
        assert torch.as_tensor(out).numpy().tobytes() == wanted.tobytes()
    bad = torch.from_numpy(x.copy())
    bad[7] = float("nan")
    out = np.zeros_like(wanted)
    assert theirs.begin(bad, out, KEY).finish() == 0
    assert theirs.encode(torch.from_numpy(x), out, KEY) == -1  # it is forgotten
    assert out.tobytes() == wanted.tobytes()
    acc, state = torch.zeros(d), np.zeros(d, np.float32)
    theirs.decode(wanted, acc, 0.5, assign=False)
    ours.decode(wanted, state, 0.5, assign=False)
    assert acc.numpy().tobytes() == state.tobytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_reported(bad):
    kernels = FusedKernels(plan.plan(np.array([0, 16, 40])), bits=4, s=7, kind=LINF, device=CPU)
    x = torch.ones(40)
    x[33] = bad
    assert int(kernels.encode(x, torch.zeros(8 + 20, dtype=torch.uint8), KEY)) == 0


# Tensors of both sorts, odd lengths, a long one of each; 1-D ones alone; wide ones that buckets cut odd.
LAYOUTS = {
    "mixed": ((3, 7), (5,), (1, 1), (4111,), (2, 2100), (1,), (16, 3)),
    "plain": ((70,), (3,)),
    "wide": ((1, 301), (11, 27)),
    "small": ((3, 7), (5,), (2, 4)),
}
CASES = [("mixed", "layer"), ("mixed", 512), ("mixed", 4096), ("wide", 24), ("small", 1), ("plain", 8)]


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("bits", range(1, 9))
def test_triton_gives_the_bytes_of_affine(case, bits):
    name, bucket = CASES[case]
    layout = Layout(tuple(f"t{i}" for i in range(len(LAYOUTS[name]))), LAYOUTS[name])
    codec = build(CodecConfig(codec="affine", bits=bits, bucket=bucket), layout)
    theirs = FusedAffine(codec._cpu.wide, codec._cpu.plain, bits=bits, device=CPU)
    out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    exponent = (0, -41, 38)[bits % 3]  # ordinary, denormal, up to the largest
    dtype = (np.float32, np.float64)[bits % 2]
    x = vector(layout.elements, 0).astype(dtype)
    x = (x, np.abs(x), -np.abs(x))[(bits // 3 + case) % 3]  # on both sides of zero, on one, on the other
    top = np.finfo(np.float32).max
    x = (x * dtype(10.0**exponent)).clip(-top, top).astype(dtype)
    assert codec._cpu.encode(x, out) == -1
    payload = torch.full((out.size,), 0xA5, dtype=torch.uint8)
    assert int(theirs.encode(torch.from_numpy(x), payload)) == 1
    assert payload.numpy().tobytes() == out.tobytes()
    for weight, assign in ((0.3, False), (1.0, True)):
        state = x[::-1].copy()
        moved = torch.from_numpy(state.copy())
        codec._cpu.decode(out, state, weight, assign=assign)
        theirs.decode(payload, moved, weight, assign=assign)
        assert moved.numpy().tobytes() == state.tobytes()


@pytest.mark.parametrize(
    "where", [0, 4135, 8300]
)  # a wide tensor, a 1-D one, a long wide one's second segment
@pytest.mark.parametrize("bad", [np.nan, -np.nan, 1e39, -1e39])
@pytest.mark.parametrize("bucket", ["layer", 512])
def test_what_is_not_finite_in_float32_is_reported_by_affine_s_too(where, bad, bucket):
    layout = Layout(tuple("abcdefg"), LAYOUTS["mixed"])
    codec = build(CodecConfig(codec="affine", bits=4, bucket=bucket), layout)
    theirs = FusedAffine(codec._cpu.wide, codec._cpu.plain, bits=4, device=CPU)
    x = torch.ones(layout.elements, dtype=torch.float64)
    payload = torch.zeros(codec.payload_bytes(), dtype=torch.uint8)
    assert int(theirs.encode(x, payload)) == 1
    x[where] = bad
    assert int(theirs.encode(x, payload)) == 0


# A whole block and a short one; a short one alone; two rotations in each; buckets of 4,096 in a block of two.
@pytest.mark.parametrize(
    ("d", "bucket", "rotations"), [(2500, 128, 1), (113, 512, 2), (2048, 128, 2), (8000, 4096, 1)]
)
@pytest.mark.parametrize("bits", range(1, 5))
def test_triton_gives_the_bytes_of_eden(d, bucket, rotations, bits):
    blocks, exponent = Blocks(d, bucket), (0, -31, -44, 37)[(bits + d) % 4]
    options = {"bits": bits, "rotations": rotations, "least_squares": bits % 2 == 0}
    ours, theirs = EdenKernels(blocks, **options), FusedEden(blocks, **options, device=CPU)
    dtype = (np.float32, np.float64)[bits % 2]
    x, state = (vector(d, exponent).astype(dtype) for _ in range(2))
    out = np.zeros(4 * blocks.buckets + blocks.padded * bits // 8, dtype=np.uint8)
    ours.encode(x, out, KEY)
    payload = torch.full((out.size,), 0xA5, dtype=torch.uint8)
    assert int(theirs.encode(torch.from_numpy(x), payload, KEY)) == 1
    assert payload.numpy().tobytes() == out.tobytes()
    state, moved = state[::-1].copy(), torch.from_numpy(state[::-1].copy())
    for weight, assign in ((0.3, False), (1.0, True)):
        ours.decode(out, state, weight, KEY, assign=assign)
        theirs.decode(payload, moved, weight, assign=assign, key=KEY)
        assert moved.numpy().tobytes() == state.tobytes()
    ours.step(x, state, out, KEY)
    theirs.step(torch.from_numpy(x), moved, payload, KEY)
    assert payload.numpy().tobytes() == out.tobytes()
    assert moved.numpy().tobytes() == state.tobytes()
    sums, theirs_sums = np.ones(blocks.padded, dtype), torch.ones(blocks.padded, dtype=moved.dtype)
    ours.sum(out, sums, 0.3)
    theirs.sum(payload, theirs_sums, 0.3)
    assert theirs_sums.numpy().tobytes() == sums.tobytes()
    bad = torch.from_numpy(x.copy())
    bad[d - 1] = float("inf")
    assert int(theirs.encode(bad, payload, KEY)) == 0


@pytest.mark.parametrize("d", [1, 33, 2048, 4103])
@pytest.mark.parametrize("nearest", [False, True])
@pytest.mark.parametrize("kind", [MX, NV])
def test_triton_gives_the_bytes_of_fp4(d, nearest, kind):
    exponent, dtype = (0, -41, -31, 37)[(d + nearest) % 4], (np.float32, np.float64)[d % 2]
    ours = Fp4Kernels(d, kind=kind, nearest=nearest)
    theirs = FusedFp4(d, kind=kind, nearest=nearest, device=CPU)
    x = vector(d, exponent).astype(dtype)
    out = np.zeros(fp4_bytes(d, kind), dtype=np.uint8)
    ours.encode(x, out, KEY)
    payload = torch.full((out.size,), 0xA5, dtype=torch.uint8)
    assert int(theirs.encode(torch.from_numpy(x), payload, KEY)) == 1
    assert payload.numpy().tobytes() == out.tobytes()
    state = vector(d, 0).astype(dtype)
    moved = torch.from_numpy(state.copy())
    for weight, assign in ((0.3, False), (1.0, True)):
        ours.decode(out, state, weight, assign=assign)
        theirs.decode(payload, moved, weight, assign=assign)
        assert moved.numpy().tobytes() == state.tobytes()
    x[d - 1] = float("nan")
    assert int(theirs.encode(torch.from_numpy(x), payload, KEY)) == 0
