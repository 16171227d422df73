"""A server step in one pass: reference_step.py's numbers, and those of the codec's own operations one by one."""

import math

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, NonFiniteError, build
from qafel_mpi.kernels import plan, reference_step
from qafel_mpi.kernels.numba.moving import Motion, Mover, still
from qafel_mpi.kernels.numba.moving_lanes import ADAM, MOMENTUM, NESTEROV, SGD

D = 4_507  # two segments, the last one odd
BETA, RATE, EPSILON, FACTOR = 0.3, 0.07, 1e-3, 1 / 3
ROUNDING = {
    torch.float32: 2.0**-24,
    torch.float64: 1e-12,
}  # of a difference in x's type, whose square is summed
KINDS = {"sgd": SGD, "momentum": MOMENTUM, "nesterov": NESTEROV, "adam": ADAM}
CODECS = {
    "qsgd": CodecConfig(bits=4),
    "qsgd 1 bit": CodecConfig(bits=1),
    "qsgd 8 bits": CodecConfig(bits=8, bucket=4096),
    "qsgd 12 bits": CodecConfig(bits=12),
    "qsgd 16 bits": CodecConfig(bits=16),
    "qsgd l2": CodecConfig(bits=3, scale="l2"),
    "qsgd tensor": CodecConfig(bits=4, bucket="tensor"),
    "sign": CodecConfig(codec="sign"),
    "eden": CodecConfig(codec="eden", bits=4),
    "eden 2 rotations": CodecConfig(codec="eden", bits=2, rotations=2),
    "identity": CodecConfig(codec="identity"),
    "affine": CodecConfig(codec="affine", bits=4),
    "zstd": CodecConfig(bits=4, entropy="zstd"),
}


def vectors(dtype, count, d=D):
    """Of several magnitudes, the last ones positive."""
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(d, generator=generator, dtype=dtype) * 10.0**-k for k in range(count)]
    return [one.numpy() for one in made]


def motion(kind, dtype=torch.float32, d=D):
    total, x, m, root = vectors(dtype, 4, d)
    nothing, numbers = x[:0], np.array((0.0, FACTOR, BETA, RATE, EPSILON), dtype=x.dtype)
    m = nothing if kind == SGD else m
    return Motion(kind, total, x, m, np.abs(root) if kind == ADAM else nothing, numbers)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KINDS)
def test_x_moves_as_the_plain_formula_says_to_the_last_bit(name, dtype):
    made = motion(KINDS[name], dtype)
    before, m = made.x.copy(), made.m.copy()
    g = reference_step.mean(made.total, FACTOR)
    if name == "sgd":
        wanted = reference_step.move_sgd(before, g, RATE)
    elif name == "adam":
        wanted = reference_step.move_adam(before, m, made.root, EPSILON, RATE)
    else:
        wanted, m = reference_step.move_momentum(before, g, m, BETA, RATE, nesterov=name == "nesterov")
    norm = Mover(D, 1).move(made)
    assert np.array_equal(made.x, wanted)
    assert np.array_equal(made.m, m)
    assert norm == pytest.approx(math.dist(wanted.astype(float), before.astype(float)), rel=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [False, True])
def test_adam_s_moments_are_those_of_the_plain_formula(dtype, largest):
    g, m, v, top = vectors(dtype, 4)
    v, top = v * v, top * top if largest else top[:0]
    wanted_m, wanted_v = reference_step.moments(reference_step.mean(g, FACTOR), m, v, 0.9, 0.99)
    wanted_top = np.maximum(top, wanted_v) if largest else top
    Mover(D, 1).moments(g, m, v, top, zero=0.0, factor=FACTOR, betas=(0.9, 0.99))
    for found, wanted in ((m, wanted_m), (v, wanted_v), (top, wanted_top)):
        assert np.array_equal(found, wanted)


def test_the_reference_s_fma_rounds_once():
    """(1 + 2^-12)² is 1 + 2^-11 + 2^-24: less 1 exact, else a tie, which 2^-60 decides as in no double."""
    a = np.full(3, 1 + 2**-12, np.float32)
    c = np.array([-1, 0, 2**-60], np.float32)
    assert reference_step.fma(a, a, c).tolist() == [2**-11 + 2**-24, 1 + 2**-11, 1 + 2**-11 + 2**-23]


def stepped(name, kind, *, assigns=False, threads=1, passes=False, d=D, dtype=torch.float32):
    """(x, x̂, payload) after a step, its norms. passes: in passes one after the other."""
    layout = Layout(("a", "b"), ((2, d // 2), (d % 2,)))
    codec = build(CODECS[name], layout, dtype, threads=threads)
    made = motion(kind, dtype, d)
    x_hat = (made.x * 0.9).astype(made.x.dtype)
    out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    step = codec.move_then_encode if passes else codec.move_and_encode
    written, norms = step(made, x_hat, out, 5, assigns=assigns, measure=True)
    return (made.x.tobytes(), x_hat.tobytes(), out[:written].tobytes()), norms


@pytest.mark.parametrize("assigns", [False, True])
@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, torch.float32) for name in CODECS] + [(n, torch.float64) for n in ("qsgd", "eden", "identity")],
)
def test_the_step_in_one_pass_has_the_bits_of_moving_and_then_encoding(name, assigns, dtype):
    found, norms = stepped(name, MOMENTUM, assigns=assigns, dtype=dtype)
    wanted, same = stepped(name, MOMENTUM, assigns=assigns, dtype=dtype, passes=True)
    assert found == wanted
    assert norms == pytest.approx(same, rel=ROUNDING[dtype])


@pytest.mark.parametrize("name", ["qsgd", "eden", "identity"])
def test_the_step_has_the_same_bits_and_norms_on_any_number_of_threads(name, monkeypatch):
    monkeypatch.setattr(plan, "ELEMENTS_PER_THREAD", 1000)
    one, *others = [stepped(name, NESTEROV, threads=threads, d=50_001) for threads in (1, 2, 3)]
    assert others == [one, one]


@pytest.mark.parametrize("name", ["qsgd", "eden", "identity", "affine"])
def test_a_difference_that_is_not_finite_is_named(name):
    layout = Layout(("a.weight", "a.bias"), ((4, 200), (9,)))
    codec, x = build(CODECS[name], layout), torch.zeros(809)
    x[803] = float("inf")
    with pytest.raises(NonFiniteError, match=r"'a\.bias', element 3 is inf"):
        codec.move_and_encode(
            still(x.numpy()), np.zeros(809, np.float32), np.zeros(codec.payload_bytes(), np.uint8), 0
        )


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("name", CODECS)
def test_a_sum_that_an_upload_starts_is_that_of_adding_it_to_zeros(name, weight):
    layout = Layout(("a", "b"), ((20, 50), (7,)))
    codec, x = build(CODECS[name], layout), torch.randn(1007, generator=torch.Generator().manual_seed(1))
    payload = np.zeros(codec.payload_bytes(), np.uint8)
    payload = payload[: codec.encode(x, payload, 3)]
    zeros, anything = torch.zeros(1007), torch.full((1007,), float("nan"))
    codec.accumulate(payload, zeros, weight, 3)
    codec.start_sum(payload, anything, weight, 3)
    assert torch.equal(anything, zeros)
