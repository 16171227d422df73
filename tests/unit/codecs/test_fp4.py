"""fp4: the industry's bytes, held against ml_dtypes' E2M1 and torch's E8M0 and E4M3; unbiased or to the nearest."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.codecs.measure import measure_delta
from qafel_mpi.testing.codecs import encoded
from qafel_mpi.testing.strategies import gaussian

D = 4101  # 128 blocks of 32 and one of 5


def fp4(d: int = D, **settings: Any):
    return build(CodecConfig.model_validate({"codec": "fp4", **settings}), Layout(("v",), ((d,),)))


def parts_of(payload: np.ndarray, kind: str) -> tuple[float, torch.Tensor, np.ndarray]:
    """(the float32 for all, the blocks' scales as torch reads them, the codes as ml_dtypes reads them)."""
    head, block = (0, 32) if kind == "mxfp4" else (4, 16)
    blocks = -(-D // block)
    scale_type = torch.float8_e8m0fnu if kind == "mxfp4" else torch.float8_e4m3fn
    scales = torch.from_numpy(payload[head : head + blocks].copy()).view(scale_type).float()
    bytes_ = payload[head + blocks :]
    codes = np.stack((bytes_ & 15, bytes_ >> 4), axis=1).reshape(-1)[:D]
    unit = float(payload[:4].view("<f4")[0]) if head else 1.0
    return unit, scales, codes.view(ml_dtypes.float4_e2m1fn).astype(np.float32)


@pytest.mark.parametrize("rounding", ["stochastic", "nearest"])
@pytest.mark.parametrize("kind", ["mxfp4", "nvfp4"])
def test_others_read_the_same_numbers_from_the_bytes(kind, rounding):
    codec, x = fp4(format=kind, rounding=rounding), gaussian(D) ** 3
    payload, q = encoded(codec, x), torch.zeros(D)
    codec.decode(payload, q, 7)
    unit, scales, values = parts_of(payload, kind)
    own = (scales * unit).repeat_interleave(32 if kind == "mxfp4" else 16)[:D].numpy()
    assert np.allclose(q.numpy(), values * own, rtol=2e-7, atol=0)
    assert (np.signbit(values) == np.signbit(x.numpy())).all()


@pytest.mark.parametrize("magnitude", [1.0, 1e-30, 1e30])
def test_mxfp4_to_the_nearest_is_the_conversion_that_ocp_describes(magnitude):
    """Scale 2^(⌊log2 of the largest⌋ − 2); elements over it as ml_dtypes rounds them, what is above 6 held to 6."""
    x = gaussian(D) * magnitude
    _, scales, values = parts_of(encoded(fp4(rounding="nearest"), x), "mxfp4")
    blocks = np.zeros((129, 32), np.float32)
    blocks.reshape(-1)[:D] = x.numpy()
    wanted = 2.0 ** (np.floor(np.log2(np.abs(blocks).max(axis=1))) - 2)
    assert (scales.numpy() == wanted).all()
    y = np.clip(blocks / wanted[:, None].astype(np.float32), -6, 6)
    assert (y.astype(ml_dtypes.float4_e2m1fn).astype(np.float32).reshape(-1)[:D] == values).all()


def test_ties_go_to_the_even_code_as_ml_dtypes_has_it():
    """Every multiple of 1/64 up to 6; the first of each block makes the scale 1."""
    y = np.arange(0, 6 * 64 + 1, dtype=np.float32) / 64
    x = np.concatenate([np.concatenate(([np.float32(4)], part)) for part in np.split(y[:372], 12)])
    payload = encoded(fp4(x.size, rounding="nearest"), torch.from_numpy(x))
    assert (payload[:12] == 127).all()
    codes = np.stack((payload[12:] & 15, payload[12:] >> 4), axis=1).reshape(-1)
    assert (codes.view(ml_dtypes.float4_e2m1fn) == x.astype(ml_dtypes.float4_e2m1fn)).all()


def test_nvfp4_to_the_nearest_is_nvidia_s_conversion():
    """The float32 is the largest over 2688; a block's scale the E4M3 (as torch rounds it) of its largest over 6."""
    x = gaussian(D)
    unit, scales, values = parts_of(encoded(fp4(format="nvfp4", rounding="nearest"), x), "nvfp4")
    blocks = np.zeros((257, 16), np.float32)
    blocks.reshape(-1)[:D] = x.numpy()
    top = np.abs(blocks).max(axis=1)
    assert unit == np.float32(top.max() / np.float32(2688))
    wanted = torch.from_numpy((top / np.float32(6)) / np.float32(unit)).to(torch.float8_e4m3fn).float()
    assert torch.equal(scales, wanted)
    inverse = np.float32(1) / (wanted.numpy() * np.float32(unit))
    y = np.clip(blocks * inverse[:, None], -6, 6)
    assert (y.astype(ml_dtypes.float4_e2m1fn).astype(np.float32).reshape(-1)[:D] == values).all()


@pytest.mark.parametrize("kind", ["mxfp4", "nvfp4"])
def test_stochastic_scales_leave_nothing_above_the_largest_code(kind):
    x = gaussian(D, 5)
    unit, scales, _ = parts_of(encoded(fp4(format=kind), x), kind)
    block = 32 if kind == "mxfp4" else 16
    own = (scales * unit).repeat_interleave(block)[:D]
    assert (x.abs() <= 6 * own * (1 + 1e-6)).all()


def test_errors_are_those_that_the_documentation_states():
    """E‖Q(x) − x‖²/‖x‖² on 200,000 Gaussian numbers."""
    x = gaussian(200_000)
    found = {
        (kind, rounding): round(1 - measure_delta(fp4(x.numel(), format=kind, rounding=rounding), [x]), 3)
        for kind in ("mxfp4", "nvfp4")
        for rounding in ("stochastic", "nearest")
    }
    assert found == pytest.approx(
        {
            ("mxfp4", "stochastic"): 0.027,
            ("mxfp4", "nearest"): 0.013,
            ("nvfp4", "stochastic"): 0.022,
            ("nvfp4", "nearest"): 0.009,
        },
        abs=0.0008,
    )


def test_the_guaranteed_delta_is_near_what_its_worst_block_shows():
    """31 elements at a quarter of the scale, where 0 and the first level are equally far, and one at 5."""
    x = torch.full((32,), 0.25)
    x[0] = 5.0
    nearest = fp4(32, rounding="nearest")
    assert 1 - measure_delta(nearest, [x]) == pytest.approx(1 - nearest.delta(), rel=0.03)
    assert fp4(32).delta() < nearest.delta()
    assert fp4(32, format="nvfp4").delta() is None
