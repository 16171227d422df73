"""The GPU's kernels: interpreted on the CPU, compiled for an H100/H200, and run where there is a GPU."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.kernels import gpu, plan

triton = pytest.importorskip("triton", reason="needs Triton")
# What rounds otherwise than the CPU's operations, one by one.
CONTRACTED = re.compile(r"\b(fma|mad)\.\w*\.?f(32|64)|\.ftz|\.approx|div\.full")
needs_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.slow
def test_interpreted_kernels_give_the_bytes_of_the_cpu():
    """All widths, several buckets, odd lengths, ordinary, denormal and huge values: interpreted_kernels.py."""
    file = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert re.search(r"\d{2,} passed", done.stdout)


def compiled(kernel, types: dict[str, str], constants: dict[str, object]) -> dict[str, str]:
    """What Triton makes of a kernel for compute capability 9.0; it brings the assembler, so that no GPU is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature = types | dict.fromkeys(constants, "constexpr")
    pointers = [i for i, kind in enumerate(signature.values()) if kind.startswith("*")]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in pointers},
    )
    options = {"enable_fp_fusion": False, "num_warps": 1}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert "cubin" in made.asm
    return made.asm


def assembly(kernel, types: dict[str, str], constants: dict[str, object]) -> str:
    """Its PTX."""
    return compiled(kernel, types, constants)["ptx"]


def test_no_kernel_counts_elements_in_32_bits():
    """From 2^31 elements on the first one of a program would be a negative number."""
    from qafel_mpi.kernels.triton import affine, buckets, eden, fp4

    for module in (affine, buckets, eden, fp4):
        source = Path(module.__file__).read_text()
        assert source.count("tl.program_id(0)") == source.count("tl.program_id(0).to(tl.int64)") > 0
    types = {"x": "*fp32", "payload": "*u8", "finite": "*i32", "unit": "*fp32", "d": "i64", "blocks": "i32"}
    constants = {"NV": False, "NEAR": False, "SIZE": 32, "BLOCK": 2048}
    ttir = compiled(fp4.encode_kernel, types | {"k0": "u32", "k1": "u32"}, constants)["ttir"]
    (program,) = re.findall(r"(%\w+) = tt.get_program_id x : i32", ttir)
    uses = [line for line in ttir.splitlines() if re.search(rf"{program}\b(?! =)", line)]
    assert uses
    assert all("arith.extsi" in line and "to i64" in line for line in uses), uses


@pytest.mark.parametrize(("bits", "kind", "step"), [(4, 0, True), (8, 1, False), (3, 2, False)])
def test_compiled_kernels_round_every_operation_as_the_cpu_does(bits, kind, step):
    """No fused multiply-add, no flushed denormal, no approximate division or root; wide loads of the vector."""
    from qafel_mpi.kernels.triton import buckets as fused

    constants = {"S": 7, "BITS": bits, "BLOCK": 512, "ALIGN": 16}
    encode = assembly(
        fused.encode_kernel,
        {
            "x": "*fp32",
            "x_hat": "*fp32",
            "payload": "*u8",
            "table": "*i64",
            "finite": "*i32",
            "buckets": "i32",
        }
        | {"k0": "u32", "k1": "u32"},
        {"STEP": step, "KNOWN": False, "KIND": kind} | constants,
    )
    decode = assembly(
        fused.decode_kernel,
        {"payload": "*u8", "acc": "*fp32", "table": "*i64", "buckets": "i32", "weight": "fp64"},
        {"ASSIGN": False} | constants,
    )
    for ptx in (encode, decode):
        assert re.search(r"\.v4\.b32", ptx)
        # The rest of a segment of odd length, one by one: 16 elements a thread.
        assert len(re.findall(r"(?:ld|st)\.global\.b32", ptx)) >= 16
        assert not CONTRACTED.search(ptx)
    assert "div.rn.f32" in encode + decode


@pytest.mark.parametrize(("bits", "known"), [(4, False), (8, True), (3, False)])
def test_affine_s_compiled_kernels_do_so_too(bits, known):
    from qafel_mpi.kernels.triton import affine as fused_affine

    cut = {"BLOCK": 512, "ALIGN": 16, "BYTES": 4}
    tensors = {"x": "*fp32", "payload": "*u8", "table": "*i64", "finite": "*i32"}
    back = {"payload": "*u8", "acc": "*fp32", "table": "*i64"}
    encode = assembly(
        fused_affine.encode_kernel, tensors | {"buckets": "i32"}, {"KNOWN": known, "BITS": bits} | cut
    )
    decode = assembly(
        fused_affine.decode_kernel,
        back | {"buckets": "i32", "weight": "fp64"},
        {"ASSIGN": False, "BITS": bits} | cut,
    )
    others = [
        assembly(fused_affine.copy_kernel, tensors, cut),
        assembly(fused_affine.add_kernel, back | {"weight": "fp64"}, {"ASSIGN": False} | cut),
        assembly(
            fused_affine.measure_kernel,
            {"x": "*fp32", "table": "*i64", "finite": "*i32", "lows": "*i32", "highs": "*i32"},
            cut,
        ),
    ]
    grid = assembly(
        fused_affine.grid_kernel,
        {"lows": "*i32", "highs": "*i32", "firsts": "*i64", "payload": "*u8", "buckets": "i32"},
        {"BITS": bits},
    )
    for ptx in (encode, decode, *others):
        assert re.search(r"\.v4\.b32", ptx)
    for ptx in (encode, decode, grid, *others):
        assert not CONTRACTED.search(ptx)
    assert len(re.findall(r"div\.rn\.f64|rcp\.rn\.f64", encode)) == (1 if known else 4)
    assert len(re.findall(r"div\.rn\.f64", grid)) == 3


@pytest.mark.parametrize(("d", "bucket", "align"), [(29_281, 512, 16), (29_282, 100, 4), (7, 512, 16)])
def test_how_wide_accesses_are_depends_on_where_buckets_begin_and_not_on_the_length(d, bucket, align):
    from qafel_mpi.kernels.triton.buckets import FusedKernels

    cut = plan.plan(np.append(np.arange(0, d, bucket), d))
    kernels = FusedKernels(cut, bits=4, s=7, kind=0, device=torch.device("cpu"))
    assert kernels._options["ALIGN"] == align


@needs_a_gpu
@pytest.mark.parametrize(
    "settings", [{}, {"bucket": 100}, {"scale": "l2"}, {"bucket": "tensor", "scale": "l2"}]
)
def test_a_gpu_gives_the_bytes_of_the_cpu(settings):
    for d in (1, 29_282, 1_000_003):
        for bits in range(1, 17):
            codec = build(CodecConfig(bits=bits, **settings), Layout(("v",), ((d,),)))
            agree_on_both_devices(codec, torch.randn(d, generator=torch.Generator().manual_seed(bits)))


@needs_a_gpu
def test_every_codec_works_on_a_gpu():
    layout = Layout(("w", "b"), ((30, 50), (70,)))
    for dtype in (torch.float32, torch.float64):
        x = torch.randn(layout.elements, generator=torch.Generator().manual_seed(0), dtype=dtype)
        for settings in (
            {"codec": "identity"},
            {"codec": "sign"},
            *({"codec": "affine", "bits": b, "bucket": m} for b in range(1, 9) for m in ("layer", 100)),
            {"codec": "topk", "fraction": 0.1},
            {"codec": "randk", "fraction": 0.1},
            {"bits": 4, "entropy": "zstd"},
        ):
            agree_on_both_devices(build(CodecConfig(**settings), layout, dtype), x)


@needs_a_gpu
@pytest.mark.parametrize("settings", [{"bits": 4}, {"codec": "affine", "bits": 4}])
def test_encoding_and_decoding_go_on_beside_what_the_caller_has_queued(settings):
    """Nothing of ours waits, on the host or on the device, for work that was queued after it."""
    d = 1_000_003
    codec = build(CodecConfig(**settings), Layout(("v",), ((1, d),)))
    x, acc = torch.randn(d, device="cuda"), torch.zeros(d, device="cuda")
    out = gpu.pinned_bytes(codec.payload_bytes()).numpy()
    codec.encode(x, out, 7)  # compiled
    codec.accumulate(out, acc, 1.0, 7)
    payload = out.copy()
    out[:] = 0
    torch.cuda.synchronize()
    encoding = codec.begin(x, out, 7)
    torch.cuda._sleep(4_000_000_000)  # cycles: 2 s of the caller's stream
    begun_s = time.monotonic()
    while not encoding.ready():
        assert time.monotonic() < begun_s + 1
    assert encoding.finish() == payload.size
    assert out.tobytes() == payload.tobytes()
    for _ in range(2):  # a payload handed in is decoded when its turn comes; the host goes on
        codec.accumulate(payload, acc, 1.0, 7)
    assert not torch.cuda.current_stream().query(), "the caller's stream was waited for"
    torch.cuda.synchronize()
    once = torch.empty_like(acc)
    codec.decode(payload, once, 7)
    assert torch.equal(acc, once + once + once)


def begun(codec, x: torch.Tensor) -> set[bytes]:
    """What `begin` gives in a pageable buffer, in a pinned one and, where the codec can, in one on the device."""
    size = codec.payload_bytes()
    buffers: list[np.ndarray | torch.Tensor] = [np.zeros(size, np.uint8)]
    if x.is_cuda:
        buffers.append(gpu.pinned_bytes(size).numpy())
    if x.is_cuda and codec.encodes_on_device:
        # Behind a header, as in a message.
        buffers.append(torch.zeros(64 + size, dtype=torch.uint8, device=x.device)[64:])
    found = set()
    for out in buffers:
        encoding = codec.begin(x, out, 7)
        while not encoding.ready():
            pass
        written = encoding.finish()
        found.add(torch.as_tensor(out)[:written].cpu().numpy().tobytes())
    return found


def agree_on_both_devices(codec, x: torch.Tensor) -> None:
    """encode, begin, decode, accumulate and the hidden-state step, on the CPU and on the GPU."""
    payloads, results = set(), []
    for device in ("cpu", "cuda"):
        here, out = x.to(device), np.zeros(codec.payload_bytes(), np.uint8)
        size = codec.encode(here, out, 7)
        payloads.add(out[:size].tobytes())
        payloads |= begun(codec, here)
        acc, state = torch.ones_like(here), here.flip(0).contiguous()
        codec.accumulate(out[:size], acc, 0.25, 7)
        decoded = torch.empty_like(here)
        codec.decode(out[:size], decoded, 7)
        size = codec.encode_difference(here, state, out, 8)
        results.append((out[:size].tobytes(), acc.cpu(), decoded.cpu(), state.cpu()))
    assert len(payloads) == 1
    (step, *vectors), (step_gpu, *vectors_gpu) = results
    assert step == step_gpu
    for a, b in zip(vectors, vectors_gpu, strict=True):
        assert torch.equal(a, b)
