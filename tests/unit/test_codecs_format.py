"""The payloads are those of codecs/FORMAT.md: a slow decoder, written from that page alone, reads golden ones."""

import json
import math
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from qafel_mpi import codecs
from qafel_mpi.codecs import CodecConfig, Layout, build

GOLDEN = json.loads((Path(__file__).parent / "golden" / "codecs.json").read_text())
SHAPES = [tuple(shape) for shape in GOLDEN["shapes"]]
SIZES = [math.prod(shape) for shape in SHAPES]
D = sum(SIZES)
LAYOUT = Layout(tuple(f"t{i}" for i in range(len(SHAPES))), tuple(SHAPES))
WORD = 2**32


def name_of(case: dict) -> str:
    first = case["x"][:8]
    return f"{'-'.join(str(v) for v in case['settings'].values())}-{case['dtype']}-{first}"


CASES = pytest.mark.parametrize("case", GOLDEN["cases"], ids=name_of)


# The decoder: bytes, settings and key in, a list of numbers out. float_ is the accumulator's type.


def codes_of(data: bytes, bits: int) -> list[int]:
    stream = int.from_bytes(data, "little")
    return [(stream >> (i * bits)) & (2**bits - 1) for i in range(8 * len(data) // bits)]


def hash_of(key: int, j: int) -> int:
    z = (key % WORD + j * 0x9E3779B9) % WORD ^ (key // WORD)
    z = (z ^ (z >> 16)) * 0x7FEB352D % WORD
    z = (z ^ (z >> 15)) * 0x846CA68B % WORD
    return z ^ (z >> 16)


def bucket_starts(bucket: int | str) -> list[int]:
    if bucket == "tensor":
        return [0, D]
    if bucket == "layer":
        return [sum(SIZES[:i]) for i in range(len(SIZES) + 1)]
    return [*range(0, D, bucket), D]  # type: ignore[arg-type]


def decode_buckets(data: bytes, bits: int, s: int, bucket: int | str, float_: type) -> list:
    starts = bucket_starts(bucket)
    scales = [np.float32(c) for (c,) in struct.iter_unpack("<f", data[: 4 * (len(starts) - 1)])]
    codes = codes_of(data[4 * len(scales) :], bits)
    values, slot = [], 0
    for c, begin, end in zip(scales, starts, starts[1:], strict=False):
        if c < 2.0**-90:
            unit, drop = c * np.float32(2.0**100) / np.float32(s), 2.0**-100
        else:
            unit, drop = c / np.float32(s), 1.0
            with np.errstate(over="ignore"):
                if np.isinf(np.float32(s) * unit):
                    unit = np.nextafter(unit, np.float32(0))
        for code in codes[slot : slot + end - begin]:
            two = code - 2**bits if code >= 2 ** (bits - 1) else code
            level = 1 - 2 * code if bits == 1 else two
            values.append(float_(level) * float_(unit) * float_(drop))
        slot += 8 * math.ceil((end - begin) / 8)
    return values


def decode_affine(data: bytes, bits: int, bucket: int | str, float_: type) -> list:
    tensors = [size for size, shape in zip(SIZES, SHAPES, strict=True) if len(shape) >= 2]
    per_tensor = [
        [size] if isinstance(bucket, str) else [min(bucket, size - a) for a in range(0, size, bucket)]
        for size in tensors
    ]
    wide = [size for sizes in per_tensor for size in sizes]
    n = len(wide)
    scales = [s for (s,) in struct.iter_unpack("<d", data[: 8 * n])]
    zeros = [z for (z,) in struct.iter_unpack("<i", data[8 * n : 12 * n])]
    plain_end = 12 * n + 4 * (D - sum(wide))
    plain = [v for (v,) in struct.iter_unpack("<f", data[12 * n : plain_end])]
    quantized, at = [], plain_end
    for size, scale, zero in zip(wide, scales, zeros, strict=True):
        end = at + math.ceil(size * bits / 8)
        tiny = scale < 2.0**-90
        unit, drop = (float_(scale * 2.0**100), 2.0**-100) if tiny else (float_(scale), 1.0)
        quantized.append(
            [float_(c - zero) * unit * float_(drop) for c in codes_of(data[at:end], bits)[:size]]
        )
        at = end
    values: list = []
    for size, shape in zip(SIZES, SHAPES, strict=True):
        if len(shape) < 2:
            values += [float_(plain.pop(0)) for _ in range(size)]
            continue
        for _ in per_tensor.pop(0):
            values += quantized.pop(0)
    return values


def decode_sparse(data: bytes, settings: dict, key: int, float_: type) -> list:
    k = max(1, int(settings["fraction"] * D))
    kept = [v for (v,) in struct.iter_unpack("<f", data[: 4 * k])]
    if settings["codec"] == "topk":
        where = [i for (i,) in struct.iter_unpack("<I", data[4 * k :])]
    else:
        where = sorted(sorted(range(D), key=lambda i: hash_of(key, i))[:k])
    values = [float_(0)] * D
    for i, v in zip(where, kept, strict=True):
        values[i] = float_(v)
    return values


def decode_plainly(case: dict, float_: type) -> np.ndarray:
    data, settings = bytes.fromhex(case["payload"]), case["settings"]
    match settings.get("codec", "qsgd"):
        case "identity":
            kind = "<f" if case["dtype"] == "float32" else "<d"
            values = [float_(v) for (v,) in struct.iter_unpack(kind, data)]
        case "affine":
            values = decode_affine(data, settings["bits"], settings.get("bucket", "layer"), float_)
        case "topk" | "randk":
            values = decode_sparse(data, settings, case["key"], float_)
        case "sign":
            values = decode_buckets(data, 1, 1, settings["bucket"], float_)
        case _:
            levels = settings.get("levels")
            bits = settings["bits"] if levels is None else 1 + math.ceil(math.log2(levels + 1))
            s = levels or max(1, 2 ** (bits - 1) - 1)
            values = decode_buckets(data, bits, s, settings.get("bucket", 512), float_)
    return np.array(values, dtype=float_)


# The tests.


def codec_of(case: dict) -> codecs.Codec:
    return build(CodecConfig(**case["settings"]), LAYOUT, getattr(torch, case["dtype"]))


def vector_of(case: dict) -> torch.Tensor:
    x = np.frombuffer(bytes.fromhex(case["x"]), dtype="<f4").copy()
    return torch.from_numpy(x).to(getattr(torch, case["dtype"]))


@CASES
def test_encoders_write_the_golden_bytes(case):
    codec = codec_of(case)
    out = np.full(codec.payload_bytes(), 255, dtype=np.uint8)
    assert out[: codec.encode(vector_of(case), out, case["key"])].tobytes().hex() == case["payload"]


@CASES
@pytest.mark.parametrize("float_", [np.float32, np.float64])
def test_the_plain_decoder_reads_what_the_codecs_read_bit_for_bit(case, float_):
    payload = np.frombuffer(bytes.fromhex(case["payload"]), dtype=np.uint8).copy()
    codec = codec_of(case)
    codec.validate(payload)
    decoded = torch.full((D,), float("nan"), dtype=torch.float32 if float_ is np.float32 else torch.float64)
    codec.decode(payload, decoded, case["key"])
    plainly = decode_plainly(case, float_)
    assert np.isfinite(plainly).all()
    assert (decoded.numpy() == plainly).all()


@CASES
def test_golden_payloads_are_near_their_vectors(case):
    """So that a golden file of nonsense would be noticed: within a step of the grid, or the values sent."""
    settings, x = case["settings"], vector_of(case).double().numpy()
    q = decode_plainly(case, np.float64)
    match settings.get("codec", "qsgd"):
        case "identity":
            assert (q == x).all()
        case "topk":
            kept = q != 0
            assert (q[kept] == x[kept]).all()
            assert np.abs(x[~kept]).max() <= np.abs(q[kept]).min()
        case "randk":
            kept, huge = q != 0, np.finfo(np.float32).max
            scaled = np.clip(x[kept] * D / int(settings["fraction"] * D), -huge, huge)
            assert np.allclose(q[kept], scaled, rtol=1e-6, atol=2.0**-149)
        case "sign":
            assert ((q < 0) == (x < 0)).all()
        case "affine":
            assert np.abs(q - x).max() <= 2.02 * np.abs(x).max() / (2 ** settings["bits"] - 1) + 2.0**-149
        case _:
            levels = settings.get("levels") or max(1, 2 ** (settings["bits"] - 1) - 1)
            scale = np.linalg.norm(x) if settings.get("scale") == "l2" else np.abs(x).max()
            reach = 2 if settings.get("bits") == 1 else 1.01
            assert np.abs(q - x).max() <= reach * scale / levels + 2.0**-148


def test_the_documents_random_numbers():
    page = (Path(codecs.__file__).parent / "FORMAT.md").read_text()
    listed = re.search(r"h\(3\) = (\w+), (\w+), (\w+),\s+(\w+)", page)
    assert listed is not None
    assert [hash_of(0x0123456789ABCDEF, j) for j in range(4)] == [int(h, 16) for h in listed.groups()]


def test_the_document_lists_every_codec_with_its_id():
    page = (Path(codecs.__file__).parent / "FORMAT.md").read_text()
    rows = {name: int(id_) for id_, name in re.findall(r"^\| (\d+)\s+\| (\w+)", page, flags=re.M)}
    assert rows == {name: kind.id for name, kind in codecs.CODECS.items()}
