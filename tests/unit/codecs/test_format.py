"""The payloads are those of codecs/FORMAT.md: a slow decoder, written from that page alone, reads golden ones."""

import json
import math
import re
import struct
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from qafel_mpi import codecs
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.codecs.mixed import Mixed

GOLDEN = json.loads((Path(__file__).parent / "golden" / "codecs.json").read_text())
SHAPES = [tuple(shape) for shape in GOLDEN["shapes"]]
SIZES = [math.prod(shape) for shape in SHAPES]
D = sum(SIZES)
LAYOUT = Layout(tuple(f"t{i}" for i in range(len(SHAPES))), tuple(SHAPES))
WORD = 2**32


def name_of(case: dict) -> str:
    first = case["x"][:8]
    rules = f"-{len(case['settings']['rules'])} rules" if "rules" in case["settings"] else ""
    own = "-".join(str(v) for k, v in case["settings"].items() if k != "rules")
    return f"{own}{rules}-{case['dtype']}-{first}"


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


def decode_buckets(
    data: bytes, bits: int, s: int, bucket: int | str, float_: type, starts: list[int] | None = None
) -> list:
    starts = starts or bucket_starts(bucket)
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


def decode_affine(
    data: bytes,
    bits: int,
    bucket: int | str,
    float_: type,
    tensors_: tuple[int, ...] = tuple(range(len(SIZES))),
) -> list:
    sizes_, shapes_ = [SIZES[i] for i in tensors_], [SHAPES[i] for i in tensors_]
    tensors = [size for size, shape in zip(sizes_, shapes_, strict=True) if len(shape) >= 2]
    per_tensor = [
        [size] if isinstance(bucket, str) else [min(bucket, size - a) for a in range(0, size, bucket)]
        for size in tensors
    ]
    wide = [size for sizes in per_tensor for size in sizes]
    n = len(wide)
    scales = [s for (s,) in struct.iter_unpack("<d", data[: 8 * n])]
    zeros = [z for (z,) in struct.iter_unpack("<i", data[8 * n : 12 * n])]
    plain_end = 12 * n + 4 * (sum(sizes_) - sum(wide))
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
    for size, shape in zip(sizes_, shapes_, strict=True):
        if len(shape) < 2:
            values += [float_(plain.pop(0)) for _ in range(size)]
            continue
        for _ in per_tensor.pop(0):
            values += quantized.pop(0)
    return values


def decode_sparse(data: bytes, settings: dict, key: int, float_: type, d: int = D) -> list:
    k = max(1, int(settings["fraction"] * d))
    kept = [v for (v,) in struct.iter_unpack("<f", data[: 4 * k])]
    if settings["codec"] == "topk":
        where = [i for (i,) in struct.iter_unpack("<I", data[4 * k :])]
    else:
        where = sorted(sorted(range(d), key=lambda i: hash_of(key, i))[:k])
    values = [float_(0)] * d
    for i, v in zip(where, kept, strict=True):
        values[i] = float_(v)
    return values


LEVELS = {1: (1,), 2: (3, 10), 3: (13, 40, 71, 114), 4: (6, 18, 30, 43, 58, 74, 95, 126)}
CUTS = {1: (), 2: (491,), 3: (250, 525, 874), 4: (129, 261, 400, 550, 719, 922, 1200)}


def blocks_of(d: int, m: int) -> list[tuple[int, int, int, int]]:
    """(first element, buckets, elements of each, positions before) of every block."""
    whole = d // (16 * m)
    found = [(16 * m * k, 16, m, m * k) for k in range(whole)]
    if left := d - 16 * m * whole:
        sizes = [m >> k for k in range(13) if m >> k >= 8 and math.ceil(left / (m >> k)) <= 16]
        size = min(sizes, key=lambda size: math.ceil(left / size) * (size + 16))
        found.append((16 * m * whole, math.ceil(left / size), size, m * whole))
    return found


def minus(key: int, before: int, lane: int, m: int, rotation: int = 0) -> list[int]:
    """−1 or 1 for each position of a bucket."""
    signs = []
    for p in range(before, before + m):
        bit = hash_of(key, 2**31 * rotation + p // 2) >> (16 * (p % 2) + lane) & 1
        signs.append(-1 if bit else 1)
    return signs


def hadamard(values: list) -> list:
    half, values = len(values) // 2, list(values)
    while half:
        for i in range(len(values)):
            if not i & half:
                values[i], values[i + half] = values[i] + values[i + half], values[i] - values[i + half]
        half //= 2
    return values


def times(a: list, b: list) -> list:
    return [x * y for x, y in zip(a, b, strict=True)]


def decode_eden(data: bytes, settings: dict, key: int, d: int, float_: type) -> list:
    bits, cut = settings["bits"], blocks_of(d, settings["bucket"])
    buckets = sum(w for _, w, _, _ in cut)
    scales = [np.float32(c) for (c,) in struct.iter_unpack("<f", data[: 4 * buckets])]
    at, values = 4 * buckets, [float_(0)] * d
    for begin, w, m, before in cut:
        size = w * m * bits // 8
        block, at = data[at : at + size], at + size
        for lane in range(w):
            c = float_(scales.pop(0))
            codes = codes_of(block[lane::w], bits)
            half = 2 ** (bits - 1)
            z = hadamard([LEVELS[bits][k % half] * (-1 if k >= half else 1) for k in codes])
            if settings.get("rotations") == 2:
                z = hadamard(times(z, minus(key, before, lane, m, 1)))
            for p, number in enumerate(times(z, minus(key, before, lane, m))):
                if (i := begin + p * w + lane) < min(d, begin + w * m):
                    values[i] = float_(number) * c
    return values


def decode_lattice(data: bytes, settings: dict, key: int, near: list[float], float_: type) -> list:
    m = D if settings["bucket"] == "tensor" else settings["bucket"]
    s, bits, at, values = settings["spacing"], settings["bits"], 4 * math.ceil(D / m), []
    for b in range(math.ceil(D / m)):
        (check,) = struct.unpack("<I", data[4 * b : 4 * b + 4])
        r = near[b * m : (b + 1) * m]
        end = at + math.ceil(len(r) * bits / 8)
        z, at = codes_of(data[at:end], bits)[: len(r)], end
        held = 2.0**52 / 2**bits
        w = [
            int(min(max(np.rint((np.float64(ri) / s - zi) / 2.0**bits), -held), held))
            for ri, zi in zip(r, z, strict=True)
        ]
        total = sum(wi * (hash_of(key, b * m + i) | 1) for i, wi in enumerate(w)) % WORD
        found = [float_(np.float64(zi + wi * 2**bits) * s) for zi, wi in zip(z, w, strict=True)]
        values += found if total == check else [float_(ri) for ri in r]
    return values


def decode_fixed(data: bytes, settings: dict, float_: type, d: int) -> list:
    bits, spacing = settings["bits"], settings["spacing"]
    (clipped,) = struct.unpack("<I", data[:4])
    assert clipped <= d
    codes = codes_of(data[4:], bits)[:d]
    levels = [code - (1 << bits) if code >> (bits - 1) else code for code in codes]
    return [float_(level) * float_(spacing) for level in levels]


def encode_eden(x: np.ndarray, settings: dict, key: int) -> bytes:
    bits, cut = settings["bits"], blocks_of(len(x), settings["bucket"])
    scales, out = b"", b""
    for begin, w, m, before in cut:
        block = np.zeros(w * m, np.float32)
        block[: len(x) - begin] = x[begin : begin + w * m]
        top = float(np.abs(block).max())
        if top < 2.0**-100:
            scales, out = scales + bytes(4 * w), out + bytes(w * m * bits // 8)
            continue
        e = math.frexp(top)[1] - 1
        streams = []
        for lane in range(w):
            y = [int(np.rint(v * np.float32(2.0 ** (17 - e)))) for v in block[lane::w]]
            z = times(y, minus(key, before, lane, m))
            if settings.get("rotations") == 2:
                z = times([(v + m // 2) // m for v in hadamard(z)], minus(key, before, lane, m, 1))
            norm = math.sqrt(sum(v * v for v in z))
            inverse = np.float32(500 / max(norm, 1.0))
            r = [int(np.rint(np.float32(v) * inverse)) for v in hadamard(z)]
            sizes = [sum(abs(v) > cut_ for cut_ in CUTS[bits]) for v in r]
            levels = [LEVELS[bits][size] for size in sizes]
            a, b = (
                sum(abs(v) * level for v, level in zip(r, levels, strict=True)),
                sum(one * one for one in levels),
            )
            if settings.get("scale") == "least-squares":
                scale = a * norm / (500 * m * b) * 2.0 ** (e - 17)
            else:
                scale = 500 * norm / max(a, 1) * 2.0 ** (e - 17)
            most = np.float32(
                float(np.finfo(np.float32).max) / (2 * LEVELS[bits][-1] * m ** settings.get("rotations", 1))
            )
            scales += struct.pack("<f", min(scale, float(most)))
            stream = 0
            for p, (size, v) in enumerate(zip(sizes, r, strict=True)):
                stream |= (size | (v < 0) << (bits - 1)) << (bits * p)
            streams.append(stream.to_bytes(m * bits // 8, "little"))
        out += bytes(byte for row in zip(*streams, strict=True) for byte in row)
    return scales + out


MAGNITUDES = (0, 0.5, 1, 1.5, 2, 3, 4, 6)


def e4m3_of(byte: int) -> np.float32:
    return np.float32(byte / 512 if byte < 8 else (8 + byte % 8) * 2.0 ** (byte // 8 - 10))


def decode_fp4(data: bytes, settings: dict, float_: type) -> list:
    m, head = (32, 0) if settings["format"] == "mxfp4" else (16, 4)
    blocks = math.ceil(D / m)
    unit = np.frombuffer(data[:4], "<f4")[0]  # of nvfp4
    values = []
    for i in range(D):
        byte = data[head + i // m]
        scale = e4m3_of(byte) * unit if head else np.float32(2.0 ** (byte - 127))
        half = np.float32(scale / np.float32(2))
        code = data[head + blocks + i // 2] >> 4 * (i % 2) & 15
        level = 2 * MAGNITUDES[code & 7]
        values.append(float_(-level if code > 7 else level) * float_(half))
    return values


def encode_fp4(x: np.ndarray, settings: dict, key: int) -> bytes:
    mx, near = settings["format"] == "mxfp4", settings["rounding"] == "nearest"
    m, one = 32 if mx else 16, np.float32(1)
    tops = [max(abs(v) for v in x[a : a + m]) for a in range(0, len(x), m)]
    unit = np.float32(0)
    if not mx and max(tops) >= 2.0**-100:
        unit = min(
            max(tops) / np.float32(2688), np.float32(float(np.finfo(np.float32).max) / 2688 * (1 - 2**-20))
        )
    scales, codes = [], []
    for b, top in enumerate(tops):
        if mx:
            e = math.frexp(top)[1] - 1 if top >= 2.0**-126 else -127
            byte = min(max(e + 125 + (not near and float(top) > 1.5 * 2.0**e), 0), 252)
            inverse = np.float32(2.0 ** (127 - byte))
        else:
            wanted = (top / np.float32(6)) / unit if unit else np.float32(0)
            far = [abs(float(e4m3_of(c)) - float(wanted)) for c in range(127)]
            ties = [c for c in range(127) if far[c] == min(far)]
            above = [c for c in range(127) if e4m3_of(c) >= wanted] or [126]
            byte = (ties[0] if len(ties) == 1 or ties[0] % 2 == 0 else ties[1]) if near else above[0]
            inverse = one / (e4m3_of(byte) * unit) if byte else np.float32(0)
        scales.append(byte)
        for p in range(b * m, min((b + 1) * m, len(x))):
            y = min(abs(x[p] * inverse), np.float32(6))
            if near:
                far = [abs(float(y) - g) for g in MAGNITUDES]
                ties = [k for k in range(8) if far[k] == min(far)]
                code = ties[0] if len(ties) == 1 or ties[0] % 2 == 0 else ties[1]
            else:
                h = hash_of(key, p // 2)
                u, n = h >> 16 if p % 2 else h & 0xFFFF, int(np.rint(y * np.float32(2.0**17)))
                k = (n >= 2**18) + (n >= 2**19)
                code = ((n + (u << k)) >> (16 + k)) + 2 * k
            codes.append(code + 8 * bool(np.signbit(x[p])))
    codes += [0] * (len(codes) % 2)
    packed = bytes(a + 16 * b for a, b in zip(codes[::2], codes[1::2], strict=True))
    return (b"" if mx else struct.pack("<f", unit)) + bytes(scales) + packed


def open_frame(data: bytes) -> bytes:
    """The content of a Zstandard frame (RFC 8878) of one segment below 256 bytes, of raw and RLE blocks."""
    assert data[:5] == bytes.fromhex("28b52ffd20"), (
        "magic, and: one segment, one byte of content size, no checksum"
    )
    content, at, last = b"", 6, False
    while not last:
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        at += 3
        content += data[at : at + size] if kind == 0 else data[at : at + 1] * size
        at += size if kind == 0 else 1
    assert (at, len(content)) == (len(data), data[5])
    return content


MASKS = (0, 0x910A2DEC89025CC1, 0x975835DE1C9756CE, 0x1D0B14E4DB018FED)


def parts_of(settings: dict) -> list[tuple[dict, list[int]]]:
    """(settings, numbers of its tensors) of each part. The rules of the golden file have one condition each."""
    conditions = {
        "match": lambda i, value: re.search(value, f"t{i}"),
        "max_rank": lambda i, value: len(SHAPES[i]) <= value,
        "max_elements": lambda i, value: SIZES[i] <= value,
    }
    left, parts = list(range(len(SIZES))), []
    for rule in settings["rules"]:
        ((name, value),) = [(name, rule[name]) for name in conditions if name in rule]
        taken = [i for i in left if conditions[name](i, value)]
        left = [i for i in left if i not in taken]
        parts.append(({k: v for k, v in rule.items() if k not in conditions}, taken))
    return [*parts, ({k: v for k, v in settings.items() if k != "rules"}, left)]


def starts_in(tensors: list[int], bucket: int | str) -> list[int]:
    """Where the buckets of a part begin: none goes on where tensors do not lie side by side."""
    pieces: list[int] = []
    for before, i in zip([-2, *tensors], tensors, strict=False):
        if i == before + 1:
            pieces[-1] += SIZES[i]
        else:
            pieces.append(SIZES[i])
    starts: list[int] = []
    at = 0
    for size in pieces:
        starts += [at] if isinstance(bucket, str) else range(at, at + size, bucket)
        at += size
    return [*starts, at]


def payload_size(settings: dict, tensors: list[int], kind: str) -> int:
    d = sum(SIZES[i] for i in tensors)
    match settings.get("codec", "qsgd"):
        case "identity":
            return d * (4 if kind == "float32" else 8)
        case "topk":
            return 8 * max(1, int(settings["fraction"] * d))
        case "eden":  # one block of 2 buckets of 16
            assert d == 20
            return 4 * 1 + 32 * settings["bits"] // 8
        case "affine":
            wide = [SIZES[i] for i in tensors if len(SHAPES[i]) >= 2]
            codes = sum(math.ceil(size * settings["bits"] / 8) for size in wide)
            return 12 * len(wide) + 4 * (d - sum(wide)) + codes
    starts, bits = starts_in(tensors, settings.get("bucket", 512)), settings.get("bits", 1)
    slots = sum(8 * math.ceil((b - a) / 8) for a, b in pairwise(starts[:-1]))
    return 4 * (len(starts) - 1) + math.ceil((slots + starts[-1] - starts[-2]) * bits / 8)


def decode_mixed(case: dict, float_: type) -> np.ndarray:
    values, at = np.full(D, np.nan, dtype=float_), 0
    begins = np.concatenate(([0], np.cumsum(SIZES)))
    for number, (settings, tensors) in enumerate(parts_of(case["settings"])):
        at = 8 * math.ceil(at / 8)
        end = at + payload_size(settings, tensors, case["dtype"])
        part = {**case, "payload": case["payload"][2 * at : 2 * end], "settings": settings}
        part["key"] = case["key"] ^ MASKS[number]
        where = np.concatenate([np.arange(begins[i], begins[i + 1]) for i in tensors])
        values[where] = decode_plainly(part, float_, tensors)
        at = end
    assert at == len(case["payload"]) // 2
    return values


def decode_plainly(case: dict, float_: type, tensors: list[int] | None = None) -> np.ndarray:
    """tensors: of a part, the numbers of its tensors."""
    data, settings = bytes.fromhex(case["payload"]), case["settings"]
    if "rules" in settings:
        return decode_mixed(case, float_)
    numbers = list(range(len(SIZES))) if tensors is None else tensors
    d = sum(SIZES[i] for i in numbers)
    match settings.get("codec", "qsgd"):
        case "identity":
            kind = "<f" if case["dtype"] == "float32" else "<d"
            values = [float_(v) for (v,) in struct.iter_unpack(kind, data)]
        case "eden":
            values = decode_eden(data, settings, case["key"], d, float_)
        case "fp4":
            values = decode_fp4(data, settings, float_)
        case "affine":
            values = decode_affine(
                data, settings["bits"], settings.get("bucket", "layer"), float_, tuple(numbers)
            )
        case "fixed":
            values = decode_fixed(data, settings, float_, d)
        case "lattice":
            values = decode_lattice(data, settings, case["key"], [0.0] * d, float_)
        case "topk" | "randk":
            values = decode_sparse(data, settings, case["key"], float_, d)
        case "sign":
            starts = tensors and starts_in(tensors, settings["bucket"])
            values = decode_buckets(data, 1, 1, settings["bucket"], float_, starts)
        case _:
            levels = settings.get("levels")
            bits = settings["bits"] if levels is None else 1 + math.ceil(math.log2(levels + 1))
            s = levels or max(1, 2 ** (bits - 1) - 1)
            bucket = settings.get("bucket", 512)
            values = decode_buckets(data, bits, s, bucket, float_, tensors and starts_in(tensors, bucket))
    return np.array(values, dtype=float_)


# The encoder of qsgd and sign.


def sum_of(values: list[float]) -> float:
    """In the document's order; the values of at most one segment, or its segments' sums."""
    values = values + [0.0] * (2 ** math.ceil(math.log2(len(values))) - len(values))
    while len(values) > 1:
        half = len(values) // 2
        values = [a + b for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


def scale_of(v: np.ndarray, kind: str) -> np.float32:
    if kind == "linf":
        return np.float32(max(abs(float(e)) for e in v))
    terms = [float(e) ** 2 if kind == "l2" else abs(float(e)) for e in v]
    total = sum_of([sum_of(terms[i : i + 4096]) for i in range(0, len(terms), 4096)])
    value = math.sqrt(total) if kind == "l2" else total / len(terms)
    return np.float32(min(value, float(np.finfo(np.float32).max)))


def level_of(v: np.float32, c: np.float32, s: int, slot: int, key: int) -> int:
    if c == 0:
        return 0
    h = hash_of(key, slot // 2)
    u = h >> 16 if slot % 2 else h & 0xFFFF
    lift = np.float32(2.0**100 if c < 2.0**-90 else 1)
    inverse = np.float32(s * 65536) / (c * lift)
    y = int(np.rint((v * lift) * inverse))
    return (min(max(y, -s * 65536), s * 65536) + u) // 65536


def encode_plainly(x: np.ndarray, kind: str, bits: int, bucket: int, key: int) -> bytes:
    """qsgd of 2 bits or more; kind "sign": sign."""
    s, scales, stream, slot = 2 ** (bits - 1) - 1, [], 0, 0
    for begin in range(0, len(x), bucket):
        v = x[begin : begin + bucket]
        scales.append(scale_of(v, kind))
        for p, e in enumerate(v, slot):
            code = int(e < 0) if kind == "sign" else level_of(e, scales[-1], s, p, key) % 2**bits
            stream |= code << (p * bits)
        end, slot = slot + len(v), slot + 8 * math.ceil(len(v) / 8)
    return struct.pack(f"<{len(scales)}f", *scales) + stream.to_bytes(math.ceil(end * bits / 8), "little")


# The tests.


def codec_of(case: dict) -> codecs.Codec:
    return build(CodecConfig.model_validate(case["settings"]), LAYOUT, getattr(torch, case["dtype"]))


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
    if "rules" in settings:
        return  # of which the parts are looked at above
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
        case "lattice":
            # Decoded near 0, which is too far for some: each bucket is within half a step, or 0.
            s, m = settings["spacing"], D if settings["bucket"] == "tensor" else settings["bucket"]
            for begin in range(0, D, m):
                v, near = x[begin : begin + m], q[begin : begin + m]
                reach = s * (2 ** settings["bits"] - 1) / 2
                if np.abs(v).max() < reach:
                    assert np.abs(v - near).max() <= s * 0.501
                elif np.abs(v).max() > reach + s:
                    assert not near.any()
        case "fixed":
            s, reach = settings["spacing"], settings["spacing"] * (2 ** (settings["bits"] - 1) - 1)
            assert np.abs(q - x.clip(-reach, reach)).max() <= s * 1.0001
        case "sign":
            assert ((q < 0) == (x < 0)).all()
        case "eden":
            error = {1: 0.9, 2: 0.4, 3: 0.12, 4: 0.03}[settings["bits"]]
            exact = (
                2.0**-100 < np.abs(x).max() < 2.0**100
            )  # tiny ones are zeros, and huge ones' scales are held
            assert ((q - x) ** 2).sum() <= (error if exact else 1) * (x**2).sum()
        case "fp4":
            exact = np.abs(x).max() > 2.0**-100
            assert ((q - x) ** 2).sum() <= (0.06 if exact else 1) * (x**2).sum() + len(x) * 2.0**-260
        case "affine":
            assert np.abs(q - x).max() <= 2.02 * np.abs(x).max() / (2 ** settings["bits"] - 1) + 2.0**-149
        case _:
            levels = settings.get("levels") or max(1, 2 ** (settings["bits"] - 1) - 1)
            scale = np.linalg.norm(x) if settings.get("scale") == "l2" else np.abs(x).max()
            reach = 2 if settings.get("bits") == 1 else 1.01
            assert np.abs(q - x).max() <= reach * scale / levels + 2.0**-148


@pytest.mark.parametrize("float_", [np.float32, np.float64])
def test_a_frame_written_by_hand_is_read_as_its_content(float_):
    """Scales 1, 0.5 and 2 in a raw block, 58 codes of level 7 in an RLE block, the last one in a raw block."""
    scales = struct.pack("<3f", 1, 0.5, 2).hex()
    frame = bytes.fromhex("28b52ffd20" + "2a" + "600000" + scales + "ea0000" + "77" + "090000" + "07")
    case = {"payload": open_frame(frame).hex(), "settings": {"bits": 4, "bucket": 24}}
    plainly = decode_plainly(case, float_)
    assert np.allclose(plainly, [1] * 24 + [0.5] * 24 + [2] * 11, rtol=1e-6)
    codec = build(CodecConfig(bits=4, bucket=24, entropy="zstd"), LAYOUT)
    assert codec.flags == 1
    decoded = torch.full((D,), float("nan"), dtype=torch.float32 if float_ is np.float32 else torch.float64)
    codec.decode(np.frombuffer(frame, dtype=np.uint8).copy(), decoded, 0)
    assert (decoded.numpy() == plainly).all()


@pytest.mark.parametrize("magnitude", [1.0, 3e-31, 1e37])
@pytest.mark.parametrize(("d", "bucket"), [(2500, 128), (600, 512), (5, 128)])
@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_the_plain_encoder_and_decoder_of_eden_do_what_the_codec_does(d, bucket, bits, magnitude):
    """A whole block and a short one, a short one alone, and one of 8 elements."""
    settings = {"codec": "eden", "bits": bits, "bucket": bucket, "rotations": 1 + (bits + d) % 2}
    settings["scale"] = ("unbiased", "least-squares")[(bits // 2 + d) % 2]
    x = (np.random.Generator(np.random.Philox(d)).standard_normal(d) * magnitude).astype(np.float32)
    codec = build(CodecConfig.model_validate(settings), Layout(("v",), ((d,),)))
    out = np.full(codec.payload_bytes(), 255, dtype=np.uint8)
    codec.encode(torch.from_numpy(x), out, 0x0123456789ABCDEF)
    assert out.tobytes() == encode_eden(x, settings, 0x0123456789ABCDEF)
    decoded = torch.zeros(d, dtype=torch.float64)
    codec.decode(out, decoded, 0x0123456789ABCDEF)
    assert decoded.tolist() == decode_eden(out.tobytes(), settings, 0x0123456789ABCDEF, d, np.float64)


@pytest.mark.parametrize(
    "case", [c for c in GOLDEN["cases"] if c["settings"].get("codec") == "fp4"], ids=name_of
)
def test_the_plain_encoder_of_fp4_writes_the_golden_bytes(case):
    x = np.frombuffer(bytes.fromhex(case["x"]), dtype="<f4")
    assert encode_fp4(x, case["settings"], case["key"]).hex() == case["payload"]


def settings_of(kind: str, bits: int, bucket: int) -> CodecConfig:
    if kind == "sign":
        return CodecConfig(codec="sign", bucket=bucket)
    return CodecConfig.model_validate({"bits": bits, "scale": kind, "bucket": bucket})


@pytest.mark.parametrize(("kind", "bits"), [("linf", 4), ("l2", 4), ("l2", 11), ("sign", 1)])
@pytest.mark.parametrize(("bucket", "magnitude"), [(5_000, 1.0), (13_000, 1e-40), (40, 1.0)])
def test_the_plain_encoder_writes_what_the_codecs_write(kind, bits, bucket, magnitude):
    """Buckets of one segment, and of two and three."""
    x = (np.random.Generator(np.random.Philox(3)).standard_normal(13_001) * magnitude).astype(np.float32)
    codec = build(settings_of(kind, bits, bucket), Layout(("v",), ((len(x),),)))
    out = np.full(codec.payload_bytes(), 255, dtype=np.uint8)
    codec.encode(torch.from_numpy(x), out, 0x0123456789ABCDEF)
    assert out.tobytes() == encode_plainly(x, kind, bits, bucket, 0x0123456789ABCDEF)


@pytest.mark.parametrize(("kind", "wanted"), [("l2", 2.0**24 + 2), ("sign", (2.0**24 + 2) / 2**16)])
def test_sums_over_the_segments_of_a_bucket_come_in_the_documents_order(kind, wanted):
    """16 segments. The large terms sum to a number whose scale lies half-way between two float32, and each of the
    small ones, one a segment, is lost where it is added to that alone: only together they take the scale upwards."""
    x = np.zeros(1 << 16, dtype=np.float32)
    x[0], x[3], small = 2.0**24, 1, 2.0**-30
    if kind == "l2":  # (2^24 + 1)² = 2^48 + 2^25 + 1
        x[1] = x[2] = 2.0**12
        small = 2.0**-3
    where = [4096 * k + 2 ** (k % 12) for k in range(1, 16)]
    x[where] = small
    terms = x.astype(np.float64) ** (2 if kind == "l2" else 1)
    lost = 2.0**48 + 2.0**25 + 1 if kind == "l2" else 2.0**24 + 1
    assert sum(terms.tolist()) == sum_of(terms.tolist()) == lost, "one after the other, or as one segment"
    assert scale_of(x, kind) == wanted
    codec = build(settings_of(kind, 4, len(x)), Layout(("v",), ((len(x),),)))
    out = np.zeros(codec.payload_bytes(), dtype=np.uint8)
    codec.encode(torch.from_numpy(x), out, 0)
    assert out[:4].tobytes() == struct.pack("<f", wanted)


def test_the_documents_random_numbers():
    page = (Path(codecs.__file__).parent / "FORMAT.md").read_text()
    listed = re.search(r"h\(3\) = (\w+), (\w+), (\w+),\s+(\w+)", page)
    assert listed is not None
    assert [hash_of(0x0123456789ABCDEF, j) for j in range(4)] == [int(h, 16) for h in listed.groups()]


def test_the_document_lists_every_codec_with_its_id():
    page = (Path(codecs.__file__).parent / "FORMAT.md").read_text()
    rows = {name: int(id_) for id_, name in re.findall(r"^\| (\d+)\s+\| (\w+)", page, flags=re.M)}
    assert rows == {name: kind.id for name, kind in codecs.CODECS.items()} | {"mixed": Mixed.id}


@pytest.mark.parametrize("bits", [1, 4, 11])
@pytest.mark.parametrize("float_", [np.float32, np.float64])
def test_the_plain_decoder_of_lattice_reads_what_the_codec_reads_near_a_reference(bits, float_):
    settings = {"codec": "lattice", "bits": bits, "bucket": 24, "spacing": 0.01}
    made, key = build(CodecConfig(**settings), LAYOUT), 0x0123456789ABCDEF
    x = 100 * np.random.default_rng(bits).standard_normal(D).astype(np.float32)
    near = (x + 0.004 * 2**bits * np.random.default_rng(7).uniform(-1, 1, D)).astype(float_)
    near[30] += 1
    payload = np.zeros(made.payload_bytes(), np.uint8)
    made.encode(torch.from_numpy(x), payload, key)
    out = torch.zeros(D, dtype=torch.float32 if float_ is np.float32 else torch.float64)
    wrapped = made.decode_near(payload, torch.from_numpy(near), out, key)
    plainly = decode_lattice(payload.tobytes(), settings, key, near.tolist(), float_)
    assert out.tolist() == plainly
    assert wrapped >= (bits < 7)
