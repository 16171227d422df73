"""One process: what a codec costs, against memory passes with the same reads and writes, in turns.

Operations: encode (a client's upload), decode_accumulate (what the server does for each upload, weight ½),
hidden_step (payload = Q(x − x̂); x̂ += decode: the server's broadcast), rotated_sum (eden's decode_accumulate with a
shared rotation; the turning back, once a step, is no part of it). Of fixed: integer_sum (its decode_accumulate, into
16-bit whole numbers, also in turns with qsgd's) and scale_sum (once a step: the vector that they stand for). Of
lattice: encode and decode_near (a vector from payload and reference). The vector is Gaussian, one tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import cycle

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.bench.measuring import peers
from qafel_mpi.bench.measuring.passes import Passes
from qafel_mpi.bench.measuring.result import MEMORY_PASS, Row
from qafel_mpi.bench.measuring.timing import Case, Limits, calibrate, interleave, timed
from qafel_mpi.codecs import CODECS, Codec, CodecConfig, Layout, build
from qafel_mpi.codecs.bucketed import Bucketed
from qafel_mpi.codecs.eden import Eden
from qafel_mpi.codecs.fixed import Fixed
from qafel_mpi.codecs.fp4 import Fp4
from qafel_mpi.codecs.lattice import Lattice
from qafel_mpi.codecs.measure import measure_delta
from qafel_mpi.codecs.near import NearCodec
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector, zeros
from qafel_mpi.kernels.reference import encode_eden, encode_qsgd
from qafel_mpi.kernels.reference_fixed import encode_fixed
from qafel_mpi.kernels.reference_fp4 import encode_fp4
from qafel_mpi.kernels.reference_lattice import encode_lattice

OPERATIONS = ("encode", "decode_accumulate", "hidden_step")
ROTATED_SUM, DECODE_NEAR = "rotated_sum", "decode_near"
INTEGER_SUM, SCALE_SUM = "integer_sum", "scale_sum"
FIXED_REACH = 4.0  # of fixed's levels, in standard deviations
LATTICE_REACH = 8.0  # of lattice's codes, in standard deviations: none of 10^9 Gaussian elements is beyond it
BYTES_PER_ELEMENT = 40  # float32 and float64 vectors, payloads and a peer's temporaries, about
CHECKED = 64 * 512  # elements whose payload is held against the plain formula
SEED = 0


@dataclass(frozen=True)
class Point:
    """One codec at one size."""

    config: CodecConfig
    d: int
    threads: int

    def parameters(self, codec: Codec) -> dict[str, object]:
        return {"codec": codec.name, "bits": codec.bits, "d": self.d, "threads": self.threads}


def sweep(
    codecs: Sequence[str], bits: Sequence[int], sizes: Sequence[int], threads: Sequence[int]
) -> list[Point]:
    """Every codec at every size, those with a choice of bits at each; a scale per 512 elements, as peers have it.

    A codec that has no use for threads is measured with one.
    """
    points = []
    for name in codecs:
        counts = threads if CODECS[name].threaded else [1]
        for config in _configs(name, bits):
            points += [Point(config, d, count) for d in sizes for count in counts]
    return points


def _configs(name: str, bits: Sequence[int]) -> list[CodecConfig]:
    match name:
        case "qsgd":
            return [CodecConfig(codec="qsgd", bits=b) for b in bits]
        case "eden":
            return [CodecConfig.model_validate({"codec": "eden", "bits": b}) for b in bits if b <= 4]
        case "affine":
            return [CodecConfig(codec="affine", bits=b, bucket=peers.GROUP) for b in bits if b <= 8]
        case "lattice":
            spacings = {b: 2 * LATTICE_REACH / (2**b - 1) for b in bits}
            return [CodecConfig(codec="lattice", bits=b, spacing=spacing) for b, spacing in spacings.items()]
        case "fixed":
            spacings = {b: FIXED_REACH / (2 ** (b - 1) - 1) for b in bits if 2 <= b <= 8}
            return [CodecConfig(codec="fixed", bits=b, spacing=spacing) for b, spacing in spacings.items()]
        case "topk" | "randk":
            return [CodecConfig.model_validate({"codec": name, "fraction": 0.01})]
        case _:
            return [CodecConfig.model_validate({"codec": name})]


def _operations(config: CodecConfig) -> Sequence[str]:
    match config.codec:
        case "eden":
            return (*OPERATIONS, ROTATED_SUM)
        case "fixed":
            return ("encode", "decode_accumulate", INTEGER_SUM, SCALE_SUM)
        case "lattice":  # a model, decoded near another: nothing is added up
            return ("encode", DECODE_NEAR)
        case _:
            return OPERATIONS


def rows(
    points: Sequence[Point],
    limits: Limits,
    against: Sequence[str] = (),
    missing: Callable[[str], None] = lambda line: None,
) -> Iterator[Row]:
    """Rows of all points. against: names of bench.peers; `missing` is told of those that can't take part, and of
    codecs that hold no x̂ to x."""
    told: set[str] = set()

    def tell(line: str) -> None:
        if line not in told:
            told.add(line)
            missing(line)

    for point in points:
        bench = _Bench(point)
        for operation in _operations(point.config):
            if operation != "hidden_step" or contracts(bench.codec, bench.x, tell):
                yield from bench.operation(operation, limits, against, tell)
        if point.config.codec in ("qsgd", "affine", "sign", "eden", "fp4"):
            yield from bench.entropy(limits)


def contracts(codec: Codec, x: Tensor, tell: Callable[[str], None]) -> bool:
    """Whether hidden-state steps with this codec hold x̂ to x; `tell` hears of one that can't be timed because of it.

    Measured beforehand on x: after how many steps x̂ overflows says nothing, as how many are timed depends on the
    machine.
    """
    if measure_delta(codec, [x]) > 0:
        return True
    tell(
        f"{codec.name} at {codec.bits} bits is no contraction: x̂ runs away from x, so there is no row hidden_step"
    )
    return False


class _Bench:
    """The vectors and the codec of one point."""

    def __init__(self, point: Point):
        self.point = point
        layout = Layout(("weight",), ((1, point.d),))
        self.codec = build(point.config, layout, threads=point.threads)
        self.coded = build(point.config.model_copy(update={"entropy": "zstd"}), layout, threads=point.threads)
        self.key = derive(SEED, Stream.UPLINK, 0, 0)
        self.x, self.x_hat, minus, self.acc = (vector(point.d, torch.float32) for _ in range(4))
        self.x.normal_(generator=torch.Generator().manual_seed(SEED))
        self.acc.zero_()
        self.x_hat.zero_()
        # x̂ must not arrive: following x and −x in turns keeps the difference as large as a vector.
        self._targets = cycle((self.x, minus.copy_(self.x).neg_()))
        self.payload = zeros(self.codec.payload_bytes(), torch.uint8).numpy()
        self.bytes = self.codec.encode(self.x, self.payload, self.key)
        self.passes = Passes(point.d, self.bytes, point.threads)
        torch.set_num_threads(point.threads)

    def operation(
        self, operation: str, limits: Limits, against: Sequence[str], tell: Callable[[str], None]
    ) -> Iterator[Row]:
        ours = self._ours(operation)
        loops = calibrate(ours)
        cases: dict[str, Case] = {
            "ours": timed(ours, loops),
            "pass": timed(self._pass(operation), loops),
        }
        does: dict[str, str] = {}
        for name in against if operation in ("encode", "decode_accumulate") else ():
            if (peer := self._peer(name, tell)) is not None:
                run = getattr(peer, operation)
                cases[name] = timed(run, calibrate(run))
                does[name] = f"{name}: {peer.does}"
        if operation == INTEGER_SUM:
            cases["qsgd"] = timed(self._of_qsgd(), loops)
            does["qsgd"] = "qsgd's decode_accumulate with as many bits"
        # Peers may be a hundred times slower: the budget is for each.
        samples = interleave(cases, replace(limits, seconds=limits.seconds * len(cases) / 2), loops=loops)
        about = {"operation": operation} | self.point.parameters(self.codec)
        wrong = self._wrong()
        traffic = self._traffic(operation)
        derived = {
            "float32_gb_per_s": 4 * self.point.d / samples["ours"].median / 1e9,
            "payload_bytes": float(self.bytes),
        }
        yield Row(
            "codec", about, samples["ours"], samples["pass"], MEMORY_PASS, traffic, wrong, derived=derived
        )
        for name, text in does.items():
            yield Row(
                "codec", about | {"against": name}, samples["ours"], samples[name], text, traffic, wrong
            )

    def _ours(self, operation: str) -> Callable[[], object]:
        codec, x, x_hat, acc = self.codec, self.x, self.x_hat, self.acc
        payload, filled, key = self.payload, self.payload[: self.bytes], self.key
        match operation:
            case "encode":
                return lambda: codec.encode(x, payload, key)
            case "decode_accumulate":
                return lambda: codec.accumulate(filled, acc, 0.5, key)
            case "integer_sum":
                totals = zeros(codec.sum_elements)
                return lambda: codec.sum_all([filled], totals, [1.0], [key])
            case "scale_sum":
                totals = zeros(codec.sum_elements)
                return lambda: codec.resolve(totals, key)
            case "decode_near":
                near, out, receiver = 0.9 * x, vector(self.point.d, torch.float32), self.codec
                assert isinstance(receiver, NearCodec)
                return lambda: receiver.decode_near(filled, near, out, key)
            case "rotated_sum":
                config = self.point.config.model_copy(update={"rotation": "shared"})
                shared = build(config, codec.layout, threads=self.point.threads)
                sums = zeros(shared.sum_elements)
                return lambda: shared.sum_all([filled], sums, [0.5], [key])
            case _:
                stepped = zeros(payload.size, torch.uint8).numpy()
                return lambda: codec.encode_difference(next(self._targets), x_hat, stepped, key)

    def _of_qsgd(self) -> Callable[[], object]:
        """decode_accumulate of qsgd with the same bits."""
        own = build(
            CodecConfig(codec="qsgd", bits=self.codec.bits), self.codec.layout, threads=self.point.threads
        )
        payload, acc = zeros(own.payload_bytes(), torch.uint8).numpy(), zeros(self.point.d)
        own.encode(self.x, payload, self.key)
        return lambda: own.accumulate(payload, acc, 0.5, self.key)

    def _pass(self, operation: str) -> Callable[[], object]:
        x, acc, x_hat = self.x.numpy(), zeros(self.point.d).numpy(), zeros(self.point.d).numpy()
        match operation:
            case "encode":
                return lambda: self.passes.encode(x)
            case "decode_accumulate" | "rotated_sum" | "decode_near" | "integer_sum" | "scale_sum":
                return lambda: self.passes.decode_accumulate(acc)
            case _:
                return lambda: self.passes.hidden_step(x, x_hat)

    def _traffic(self, operation: str) -> float:
        """Bytes that must be read and written at least."""
        if operation == SCALE_SUM:
            return 6.0 * self.point.d
        vectors = {"encode": 1, "hidden_step": 3, INTEGER_SUM: 1}.get(operation, 2)
        return 4.0 * vectors * self.point.d + self.bytes

    def _peer(self, name: str, tell: Callable[[str], None]) -> peers.Peer | None:
        total = zeros(self.point.d)
        try:
            return peers.find(name, self.codec.name, self.codec.bits, self.x, total)
        except ImportError:
            tell(f"{name} is not installed, so there are no rows against it")
        except Exception as error:
            tell(f"{name} can't do this here ({error}), so there are no rows against it")
        return None

    def _wrong(self) -> int:
        """Bytes that a second encoding makes otherwise, and elements where accumulate(1) is not decode, then add."""
        again = np.zeros_like(self.payload)
        self.codec.encode(self.x, self.payload, self.key)
        self.codec.encode(self.x, again, self.key)
        decoded, total = torch.empty_like(self.x), self.x.clone()
        filled = self.payload[: self.bytes]
        self.codec.decode(filled, decoded, self.key)
        self.codec.accumulate(filled, total, 1.0, self.key)
        wrong = int((again != self.payload).sum()) + int((total != self.x + decoded).sum())
        return wrong + self._not_by_the_formula()

    def _not_by_the_formula(self) -> int:
        """Bytes at the payload's beginning that kernels.reference writes otherwise, for codecs with buckets."""
        if not isinstance(self.codec, Bucketed | Eden | Fp4 | Fixed | Lattice):
            return 0
        x = self.x[:CHECKED].clone()
        short = build(self.point.config, Layout(("weight",), ((1, len(x)),)))
        found = np.zeros(short.payload_bytes(), dtype=np.uint8)
        short.encode(x, found, self.key)
        if isinstance(short, Eden):
            wanted = encode_eden(x.numpy(), short.blocks, short.bits, self.key)
        elif isinstance(short, Fp4):
            wanted = encode_fp4(x.numpy(), short.kind, short.nearest, self.key)
        elif isinstance(short, Fixed):
            own = encode_fixed(x.numpy(), spacing=short.spacing, bits=short.bits, key=self.key)
            wanted = np.frombuffer(own, dtype=np.uint8)
        elif isinstance(short, Lattice):
            own = encode_lattice(
                x.numpy(), spacing=short.spacing, bits=short.bits, bucket=short.bucket, key=self.key
            )
            wanted = np.frombuffer(own, dtype=np.uint8)
        else:
            assert isinstance(short, Bucketed)
            wanted = encode_qsgd(x.numpy(), short.plan.starts, short.bits, short.s, short.kind, self.key)
        return int((found != wanted).sum())

    def entropy(self, limits: Limits) -> Iterator[Row]:
        """The same payload through zstd: what it saves, and below which link speed that pays."""
        coded = zeros(self.coded.payload_bytes(), torch.uint8).numpy()
        size = self.coded.encode(self.x, coded, self.key)
        cases = {
            "encode": timed(lambda: self.codec.encode(self.x, self.payload, self.key)),
            "coded encode": timed(lambda: self.coded.encode(self.x, coded, self.key)),
            "decode": timed(
                lambda: self.codec.accumulate(self.payload[: self.bytes], self.acc, 0.5, self.key)
            ),
            "coded decode": timed(lambda: self.coded.accumulate(coded[:size], self.acc, 0.5, self.key)),
        }
        s = interleave(cases, limits)
        extra_s = sum(s[f"coded {way}"].median - s[way].median for way in ("encode", "decode"))
        derived = {
            "entropy_bits": byte_entropy(self.payload[: self.bytes]) * self.bytes / self.point.d,
            "payload_bytes": float(self.bytes),
            "coded_bytes": float(size),
            "pays_below_mbit_per_s": max(0.0, 8e-6 * (self.bytes - size) / max(extra_s, 1e-9)),
        }
        for way, operation in (("encode", "encode_zstd"), ("decode", "decode_accumulate_zstd")):
            about = {"operation": operation} | self.point.parameters(self.codec)
            yield Row(
                "codec", about, s[f"coded {way}"], s[way], "the same without zstd", wrong=0, derived=derived
            )


def byte_entropy(data: np.ndarray) -> float:
    """Shannon entropy of the bytes' distribution, in bits a byte: what a coder of single bytes can reach.

    >>> byte_entropy(np.array([0, 1, 2, 3], dtype=np.uint8))
    2.0
    """
    counts = np.bincount(data, minlength=256)
    shares = counts[counts > 0] / data.size
    return float(-(shares * np.log2(shares)).sum())
