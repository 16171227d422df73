"""The numba kernels give the bytes of the plain formulas, whatever the length, buckets, width, threads and type."""

import math
import os
import shutil
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import qafel_mpi
from qafel_mpi.kernels import plan, reference
from qafel_mpi.kernels.numba import buckets as cpu
from qafel_mpi.kernels.reference import L2, LINF, MEAN

MARGIN = 16  # bytes behind the payload that nobody may touch


def levels_of(bits: int) -> int:
    return max(1, 2 ** (bits - 1) - 1)


def starts_of(d: int, bucket: int) -> np.ndarray:
    return np.append(np.arange(0, d, bucket), d)


def vector(d: int, exponent: int, seed: int) -> np.ndarray:
    """(d,) float32 Gaussian values times 10^exponent, a few of them zero, one bucket of nothing but zeros."""
    x = np.random.default_rng(seed).standard_normal(d).clip(-3, 3) * 10.0**exponent
    x[seed % 7 :: 7] = 0
    x[d // 2 : d // 2 + 50] = 0
    return x.astype(np.float32)


def kernels_of(starts: np.ndarray, bits: int, kind: int, threads: int = 1) -> cpu.BucketKernels:
    return cpu.BucketKernels(plan.plan(starts), bits=bits, s=levels_of(bits), kind=kind, threads=threads)


def encode(kernels: cpu.BucketKernels, x: np.ndarray, key: int) -> np.ndarray:
    """The payload, after checking that nothing behind it was written."""
    size = 4 * kernels.plan.buckets + kernels.plan.code_bytes(kernels.bits)
    out = np.full(size + MARGIN, 0xA5, dtype=np.uint8)
    assert kernels.encode(x, out, key) == -1
    assert (out[size:] == 0xA5).all()
    return out[:size].copy()


@given(
    d=st.integers(1, 3000) | st.integers(4000, 14000),
    bucket=st.integers(1, 600) | st.sampled_from([512, 1024, 4096, 4097, 9000, 10**6]),
    bits=st.integers(1, 16),
    kind=st.sampled_from([LINF, L2, MEAN]),
    exponent=st.integers(-44, 37),
    key=st.integers(0, 2**64 - 1),
)
@settings(max_examples=150)
def test_kernels_give_the_bytes_and_the_bits_of_the_reference(d, bucket, bits, kind, exponent, key):
    bits = 1 if kind == MEAN else bits
    starts = starts_of(d, max(bucket, d // 500))
    x, s = vector(d, exponent, seed=d), levels_of(bits)
    kernels = kernels_of(starts, bits, kind)
    payload = encode(kernels, x, key)
    assert payload.tobytes() == reference.encode_qsgd(x, starts, bits, s, kind, key).tobytes()
    for dtype in (np.float32, np.float64):
        acc = vector(d, exponent, seed=1).astype(dtype)
        expected = acc + reference.decode_qsgd(payload, starts, bits, s, weight=0.3, dtype=dtype)
        kernels.decode(payload, acc, 0.3, assign=False)
        assert acc.tobytes() == expected.tobytes()
        kernels.decode(payload, acc, 1.0, assign=True)
        assert acc.tobytes() == reference.decode_qsgd(payload, starts, bits, s, dtype=dtype).tobytes()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("kind", [LINF, L2])
def test_float64_is_encoded_as_the_float32_that_it_rounds_to(bits, kind):
    x = np.random.default_rng(bits).standard_normal(1000)
    kernels = kernels_of(starts_of(1000, 300), bits, kind)  # buckets with and without a rest of 64 elements
    wanted = reference.encode_qsgd(x.astype(np.float32), starts_of(1000, 300), bits, levels_of(bits), kind, 5)
    assert encode(kernels, x, 5).tobytes() == wanted.tobytes()


@given(d=st.integers(1, 3000), bits=st.integers(1, 16), kind=st.sampled_from([LINF, L2]))
@settings(max_examples=60)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_fused_step_is_encode_and_add(d, bits, kind, dtype):
    kernels = kernels_of(starts_of(d, 100), bits, kind)
    x, x_hat = vector(d, 0, 1).astype(dtype), vector(d, 0, 2).astype(dtype)
    payload = encode(kernels, (x - x_hat).astype(np.float32), 9)
    expected = x_hat.copy()
    kernels.decode(payload, expected, 1.0, assign=False)
    fused = np.zeros_like(payload)
    assert kernels.step(x, x_hat, fused, 9) == -1
    assert fused.tobytes() == payload.tobytes()
    assert x_hat.tobytes() == expected.tobytes()


@pytest.mark.parametrize("kind", [LINF, L2])
@pytest.mark.parametrize("bucket", [512, 10_000, 100_003])
def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch, kind, bucket):
    monkeypatch.setattr(plan, "ELEMENTS_PER_THREAD", 1000)
    d, starts = 100_003, starts_of(100_003, bucket)
    x, results = vector(d, 0, 3), set()
    for threads in (1, 2, 3, 7):
        kernels = kernels_of(starts, 5, kind, threads)
        payload, acc = encode(kernels, x, 11), x.copy()
        kernels.decode(payload, acc, 0.5, assign=False)
        results.add(payload.tobytes() + acc.tobytes())
        if kernels.plan.single:
            x_hat = x[::-1].copy()
            kernels.step(x, x_hat, payload, 12)
            results.add(payload.tobytes() + x_hat.tobytes())
    assert len(results) == 1 + kernels.plan.single


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("bucket", [512, 9000])
@pytest.mark.parametrize("bits", [4, 5])
def test_a_segment_that_is_not_finite_is_reported(bad, bucket, bits):
    kernels = kernels_of(starts_of(20_000, bucket), bits, LINF)
    out = np.zeros(4 * kernels.plan.buckets + kernels.plan.code_bytes(bits), dtype=np.uint8)
    x = vector(20_000, 0, 4)
    x[19_999] = bad
    assert kernels.encode(x, out, 0) == kernels.plan.segments - 1
    if kernels.plan.single:
        assert kernels.step(x, np.zeros_like(x), out, 0) == kernels.plan.segments - 1


@pytest.mark.parametrize("bits", range(2, 17))
def test_the_largest_values_decode_to_finite_ones(bits):
    """c/s rounded up, times s, may pass the largest float32: FORMAT.md takes the next smaller unit."""
    largest = np.finfo(np.float32).max
    ends = largest * (1 - np.arange(300) * 2.0**-24)
    x = np.concatenate([ends, -ends]).astype(np.float32)
    kernels = kernels_of(np.arange(len(x) + 1), bits, LINF)
    out = np.empty_like(x)
    kernels.decode(encode(kernels, x, 5), out, 1.0, assign=True)
    assert np.isfinite(out).all()
    assert np.allclose(out, x, rtol=2.0**-20)


def test_a_call_allocates_nothing():
    """Bytes that Python and numpy allocate in 50 rounds at d = 29,282: less than one object a call would take."""
    kernels = kernels_of(starts_of(29_282, 512), 4, LINF)
    x, acc, x_hat = vector(29_282, 0, 5), np.zeros(29_282, np.float32), np.zeros(29_282, np.float32)
    payload = encode(kernels, x, 5)

    def rounds() -> None:
        for key in range(50):
            kernels.encode(x, payload, key)
            kernels.decode(payload, acc, 0.5, assign=False)
            kernels.step(x, x_hat, payload, key)

    rounds()
    tracemalloc.start()
    rounds()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000


def test_scales_that_no_encoder_writes_are_found():
    scales = np.array([0, 1, 3e38, 1e-45], dtype=np.float32)
    assert cpu.scales_valid(scales.view(np.uint8), 4, cpu.FINITE)
    for bad in (math.nan, math.inf, -1.0, -0.0):
        scales[2] = bad
        assert not cpu.scales_valid(scales.view(np.uint8), 4, cpu.FINITE)


@pytest.mark.slow
def test_kernels_compile_where_nothing_can_be_cached(tmp_path: Path):
    """A read-only installation and no home: numba finds no folder for its cache. (Files stand in their way: root
    may write to any folder.)"""
    package = Path(qafel_mpi.__file__).parent
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in (tmp_path, *(path.parent for path in tmp_path.rglob("__init__.py"))):
        (folder / "__pycache__").write_text("")
    (tmp_path / "home").write_text("")
    (tmp_path / "program.py").write_text(
        textwrap.dedent("""
        import numpy as np
        import torch
        from qafel_mpi.codecs import CodecConfig, Layout, build
        from qafel_mpi.kernels.numba import norms
        from qafel_mpi.tasks import logistic_kernels

        codec = build(CodecConfig(codec="sign"), Layout(("v",), ((8,),)))
        print(codec.encode(torch.ones(8), np.empty(5, np.uint8), 0))
        print(norms.norm(torch.tensor([3.0, 4.0])), logistic_kernels.padded(9), norms.__file__)
        """)
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG"))}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "5.0", "16", str(tmp_path / package.name / "kernels/numba/norms.py")]
