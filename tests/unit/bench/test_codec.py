"""bench codec: its rows, what it calls wrong, and that peers do the job they are timed at."""

import importlib.util
import os

import numpy as np
import pytest
import torch

from qafel_mpi.bench import codec, codec_gpu
from qafel_mpi.bench.measuring import peers
from qafel_mpi.bench.measuring.neighbour import neighbour
from qafel_mpi.bench.measuring.passes import BLOCK, Passes
from qafel_mpi.bench.measuring.result import DEVICE_COPY, MEMORY_PASS
from qafel_mpi.bench.measuring.timing import Limits
from qafel_mpi.codecs import CodecConfig
from qafel_mpi.kernels import gpu
from qafel_mpi.kernels.eager import EagerAffine, EagerKernels
from qafel_mpi.kernels.eager_eden import EagerEden
from qafel_mpi.kernels.eager_fp4 import EagerFp4

SHORT = Limits(seconds=0.0, least=2, warmups=1)
D = 2 * BLOCK + 5


def rows(config: CodecConfig, **options):
    return list(codec.rows([codec.Point(config, D, 1)], SHORT, **options))


def test_a_point_has_a_row_an_operation_against_the_pass_and_two_for_entropy():
    found = rows(CodecConfig(bits=4))
    operations = [row.parameters["operation"] for row in found]
    assert operations == [*codec.OPERATIONS, "encode_zstd", "decode_accumulate_zstd"]
    encode, decode, step = found[:3]
    payload = 4 * 3 + 4 * BLOCK // 8 * 2 + 3
    assert encode.derived["payload_bytes"] == payload
    assert [row.bytes_moved for row in (encode, decode, step)] == [4 * n * D + payload for n in (1, 2, 3)]
    assert {row.reference_name for row in found[:3]} == {MEMORY_PASS}
    assert all(row.wrong == 0 for row in found)
    columns = encode.columns()
    assert columns["bytes_moved"] == 4 * D + payload
    assert {"operation", "codec", "bits", "d", "threads", "median_us", "ci95_us", "ratio"} <= columns.keys()


def test_rows_against_peers_hold_the_same_samples_of_ours():
    found = [row for row in rows(CodecConfig(bits=4), against=("numpy", "torch")) if not row.wrong]
    peers_rows = [row for row in found if "against" in row.parameters]
    assert [row.parameters["against"] for row in peers_rows] == ["numpy", "torch"] * 2
    assert found[0].ours is peers_rows[0].ours


def test_a_peer_that_is_not_installed_is_said_once(monkeypatch):
    def absent(*_):
        raise ImportError

    monkeypatch.setattr(peers, "_torchao", absent)
    said: list[str] = []
    rows(CodecConfig(bits=4), against=("torchao",), missing=said.append)
    assert said == ["torchao is not installed, so there are no rows against it"]


def test_an_encoder_that_is_not_a_function_of_its_key_is_wrong():
    bench = codec._Bench(codec.Point(CodecConfig(bits=4), D, 1))
    assert bench._wrong() == 0
    encode = bench.codec.encode
    keys = iter(range(100))
    bench.codec.encode = lambda x, out, key: encode(x, out, next(keys))  # type: ignore[method-assign]
    assert bench._wrong() > 0


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("name", [name for name in peers.NAMES if installed(name)])
@pytest.mark.parametrize(
    ("kind", "bits", "error"),
    [("qsgd", 8, 0.02), ("qsgd", 4, 0.25), ("affine", 8, 0.02), ("affine", 4, 0.15)],
)
def test_peers_give_back_about_what_they_were_given(name, kind, bits, error):
    x, total = torch.randn(4 * peers.GROUP, generator=torch.Generator().manual_seed(1)), torch.zeros(2048)
    peer = peers.find(name, kind, bits, x, total)
    if peer is None:
        assert (name, kind) == ("numpy", "affine")  # the only job in this list that one of them can't do
        return
    peer.encode()
    peer.decode_accumulate()
    assert float((total - x).norm() / x.norm()) < error
    peer.decode_accumulate()
    assert float((total - 2 * x).norm() / x.norm()) < 2 * error


@pytest.mark.parametrize("threads", [1, 2])
def test_passes_touch_all_that_they_are_said_to_touch(threads, monkeypatch):
    monkeypatch.setattr("qafel_mpi.bench.measuring.passes.ELEMENTS_PER_THREAD", BLOCK)
    passes = Passes(D, 600, threads)
    assert len(passes._shares) == threads
    passes.encode(np.ones(D, np.float32))
    assert (passes._payload != 0).all()
    assert passes._payload.nbytes >= 600
    acc = np.zeros(D, np.float32)
    passes.decode_accumulate(acc)
    assert (acc != 0).all()
    x_hat = np.zeros(D, np.float32)
    passes.hidden_step(np.ones(D, np.float32), x_hat)
    assert (x_hat == 0.5).all()


def test_the_entropy_of_gaussian_codes_is_below_their_width():
    x = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0))
    point = codec.Point(CodecConfig(bits=4), x.numel(), 1)
    (row, _) = codec._Bench(point).entropy(SHORT)
    assert 3.1 < row.derived["entropy_bits"] < 3.5  # 3.2 of 4 bits, and the scales
    assert row.derived["coded_bytes"] < 0.85 * row.derived["payload_bytes"]
    assert codec.byte_entropy(np.zeros(9, np.uint8)) == 0


def test_the_sweep_has_bits_where_a_codec_has_a_choice_of_them():
    points = codec.sweep(["qsgd", "sign", "affine", "topk"], [4, 16], [10, 20], [1])
    assert [(p.config.codec, p.config.bits, p.d) for p in points if p.d == 10] == [
        ("qsgd", 4, 10),
        ("qsgd", 16, 10),
        ("sign", 4, 10),
        ("affine", 4, 10),
        ("topk", 4, 10),
    ]


def test_rows_with_several_threads_are_of_codecs_that_use_them():
    points = codec.sweep(codec.CODECS, [4], [10], [2, 3])
    counts = {name: [p.threads for p in points if p.config.codec == name] for name in codec.CODECS}
    alone = {"topk", "randk", "lattice"}
    assert counts == {name: [1] if name in alone else [2, 3] for name in codec.CODECS}


def test_the_hidden_state_stays_away_from_its_target_however_long_it_is_timed():
    bench = codec._Bench(codec.Point(CodecConfig(bits=8), D, 1))
    step = bench._ours("hidden_step")
    for _ in range(100):
        step()
    assert torch.linalg.vector_norm(next(bench._targets) - bench.x_hat) > torch.linalg.vector_norm(bench.x)


def test_bytes_that_the_plain_formula_would_not_write_are_wrong(monkeypatch):
    bench = codec._Bench(codec.Point(CodecConfig(bits=4), D, 1))
    plain = codec.encode_qsgd
    monkeypatch.setattr(codec, "encode_qsgd", lambda x, *rest: plain(-x, *rest))
    assert bench._wrong() > D // 4


def test_a_neighbour_shares_our_core_and_is_gone_after():
    before = os.sched_getaffinity(0)
    with neighbour():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


def test_rows_of_a_device_hold_its_bytes_against_the_cpu_s(monkeypatch):
    # Without a GPU: the same tensor operations that one without Triton would run.
    monkeypatch.setattr(
        gpu,
        "bucket_kernels",
        lambda plan, bits, s, kind, device: EagerKernels(plan, bits=bits, s=s, kind=kind),
    )
    monkeypatch.setattr(
        gpu, "affine_kernels", lambda wide, plain, bits, device: EagerAffine(wide, plain, bits=bits)
    )
    monkeypatch.setattr(
        gpu,
        "eden_kernels",
        lambda blocks, bits, rotations, least, device: EagerEden(
            blocks, bits=bits, rotations=rotations, least_squares=least
        ),
    )
    monkeypatch.setattr(
        gpu, "fp4_kernels", lambda d, kind, nearest, device: EagerFp4(d, kind=kind, nearest=nearest)
    )
    with_kernels = ["qsgd", "sign", "affine", "eden", "fp4", "identity"]
    points = codec.sweep([*with_kernels, "topk"], [4], [D, D + 1], [1])
    said: list[str] = []
    found = list(codec_gpu.rows(points, SHORT, torch.device("cpu"), said.append))
    assert [row.parameters["codec"] for row in found] == [name for name in with_kernels for _ in range(6)]
    assert said == ["topk has no kernels for a GPU that encode and decode, so it has no rows there"]
    assert all(row.wrong == 0 and row.reference_name == DEVICE_COPY for row in found)
    assert all(row.derived["call_us"] > 0 for row in found)
    bench = codec_gpu._bench(
        codec.build(points[0].config, codec.Layout(("w",), ((D,),))), torch.device("cpu")
    )
    assert bench is not None
    decode = bench.kernels.decode
    bench.kernels.decode = lambda payload, acc, weight, assign: decode(payload, acc, -weight, assign=assign)
    assert bench._wrong("encode") == 0
    assert bench._wrong("decode_accumulate") > D
    assert bench._wrong("hidden_step") > D
    bench.codec.encode = lambda x, out, key, encode=bench.codec.encode: encode(x, out, key + 1)
    assert bench._wrong("encode") > D // 8


def test_a_codec_that_is_no_contraction_has_no_hidden_state_step_and_the_bench_says_so(monkeypatch):
    monkeypatch.setattr(codec, "calibrate", lambda call: 1)  # too few steps for x̂ to overflow
    said: list[str] = []
    found = list(codec.rows([codec.Point(CodecConfig(bits=1), D, 1)], SHORT, missing=said.append))
    operations = [row.parameters["operation"] for row in found]
    assert operations == ["encode", "decode_accumulate", "encode_zstd", "decode_accumulate_zstd"]
    assert said == ["qsgd at 1 bits is no contraction: x̂ runs away from x, so there is no row hidden_step"]


def test_fixed_is_measured_with_its_sums_of_whole_numbers_and_checked(monkeypatch):
    (config,) = codec._configs("fixed", [1, 4])
    rows = list(codec.rows([codec.Point(config, D, 1)], SHORT))
    shown = [(row.parameters["operation"], row.parameters.get("against")) for row in rows]
    assert shown == [
        *[("encode", None), ("decode_accumulate", None)],
        *[("integer_sum", None), ("integer_sum", "qsgd"), ("scale_sum", None)],
    ]
    assert all(row.wrong == 0 for row in rows)
    bench = codec._Bench(codec.Point(config, D, 1))
    plain = codec.encode_fixed
    monkeypatch.setattr(codec, "encode_fixed", lambda x, **rest: plain(-x, **rest))
    assert bench._wrong() > D // 4


def test_lattice_is_measured_near_a_reference_and_checked():
    (config,) = codec._configs("lattice", [8])
    rows = list(codec.rows([codec.Point(config, D, 1)], SHORT))
    assert [row.parameters["operation"] for row in rows] == ["encode", "decode_near"]
    assert all(row.wrong == 0 for row in rows)
    bench = codec._Bench(codec.Point(config, D, 1))
    bench._ours("decode_near")()
    assert bench.codec.wrapped == 0, "all of it lies within the codes' reach"
