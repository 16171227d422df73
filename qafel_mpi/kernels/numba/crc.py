"""CRC-64/XZ of a payload beside what a kernel does with its bytes, 64 of them at a time.

Such a kernel waits for memory: it has time for a few instructions more on bytes that it reads anyway. Carry-less
products bring a sum of 64 bytes forward by 64 and leave what it is modulo the polynomial ("folding": Gopal et al.,
Fast CRC Computation for Generic Polynomials Using PCLMULQDQ, Intel 2009). A register is the CRC's, with no inversion
at either end: it is 0 before the first byte, and linear in the bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from fastcrc import crc64
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.jit import helper, intrinsic, jit, load8, load64, store
from qafel_mpi.kernels.numba.vectors import has

POLYNOMIAL = 0xC96C5795D7870F42  # reflected: the lowest bit has the highest power of x
STEP = 64  # bytes of a sum, too
ABREAST = 4  # vectors that are brought forward side by side
_WORDS = STEP // 8
_ONE = 1 << 63  # x^0
_I8, _I64 = ir.IntType(8), ir.IntType(64)


def stepped(register: int) -> int:
    """register · x modulo the polynomial."""
    return register >> 1 ^ (POLYNOMIAL if register & 1 else 0)


def power(n: int) -> int:
    """x^n modulo the polynomial, n ≥ 0.

    >>> hex(power(64))  # the polynomial without its own x^64
    '0xc96c5795d7870f42'
    """
    found = _ONE
    for bit in bin(n)[2:]:
        found = product(found, found)
        if bit == "1":
            found = stepped(found)
    return found


def product(a: int, b: int) -> int:
    """a · b modulo the polynomial."""
    found = 0
    while b:
        if b & _ONE:
            found ^= a
        a, b = stepped(a), b << 1 & 2**64 - 1
    return found


def _register_of(byte: int) -> int:
    for _ in range(8):
        byte = stepped(byte)
    return byte


TABLE = np.array([_register_of(byte) for byte in range(256)], dtype=np.uint64)


@cache
def width() -> int:
    """Bits that one carry-less product of vectors takes here, as far as kernels may use it; 0: there is none."""
    if has("vpclmulqdq", "avx512f"):
        return 512
    return 128 if has("pclmul") else 0


def _factors(bits: int) -> tuple[int, int]:
    """What brings the two words of 16 bytes forward by so many bits.

    A carry-less product of reflected words has one x more than theirs.
    """
    return power(bits + 63), power(bits - 1)


def _multiply(b: Any, x: Any, y: Any, words: int) -> Any:
    """x · y: of the low words of 16 bytes each (words = 0x00), or of the high ones (0x11)."""
    lanes = x.type.count
    name = "llvm.x86.pclmulqdq" + (f".{64 * lanes}" if lanes > 2 else "")
    kind = ir.FunctionType(x.type, [x.type, x.type, _I8])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), [x, y, _I8(words)])


@intrinsic
def fold(typingctx, payload, begin, end, states, at):
    """Bytes begin..end of the payload, a multiple of STEP, behind those whose sum lies at byte `at` of states.

    A product takes several cycles, and a sum waits for its own. Where a vector has a whole sum, ABREAST of them go on
    side by side, each of every ABREAST-th STEP, as long as there are bytes for all.
    """

    def codegen(context, b, signature, args):
        lanes = max(2, width() // 64)
        vector, parts = ir.VectorType(_I64, lanes), _WORDS // lanes
        abreast = ABREAST // parts

        def data(kind: Any, value: Any) -> Any:
            return b.bitcast(context.make_array(kind)(context, b, value).data, _I8.as_pointer())

        bytes_, kept = data(signature.args[0], args[0]), data(signature.args[3], args[3])

        def places(base: Any, byte: Any) -> list[Any]:
            """Of the vectors of one STEP."""
            return [
                b.bitcast(b.gep(base, [b.add(byte, _I64(8 * lanes * k))]), vector.as_pointer())
                for k in range(parts)
            ]

        def read(byte: Any) -> list[Any]:
            return [b.load(p, align=1) for p in places(bytes_, byte)]

        def onto(sums: Sequence[Any], steps: int, others: Sequence[Any]) -> list[Any]:
            """Sums brought forward by so many STEPs, and the others."""
            factors = ir.Constant(vector, list(_factors(8 * STEP * steps)) * (lanes // 2))
            return [
                b.xor(b.xor(_multiply(b, s, factors, 0x00), _multiply(b, s, factors, 0x11)), r)
                for s, r in zip(sums, others, strict=True)
            ]

        def loop(start: Any, stride: int, initial: Sequence[Any], step: Callable[..., list[Any]]) -> Any:
            """step(place, vectors) as long as a stride of bytes is left. Returns the place and the vectors."""
            before, body, done = b.block, b.append_basic_block("fold"), b.append_basic_block("folded")
            last = b.sub(args[2], _I64(stride))
            b.cbranch(b.icmp_signed("<=", start, last), body, done)
            b.position_at_end(body)
            phis = [b.phi(v.type) for v in (start, *initial)]
            found = [b.add(phis[0], _I64(stride)), *step(phis[0], phis[1:])]
            for phi, first, next_ in zip(phis, (start, *initial), found, strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(next_, body)
            b.cbranch(b.icmp_signed("<=", found[0], last), body, done)
            b.position_at_end(done)
            ends = [b.phi(v.type) for v in found]
            for phi, first, next_ in zip(ends, (start, *initial), found, strict=True):
                phi.add_incoming(first, before)
                phi.add_incoming(next_, body)
            return ends[0], ends[1:]

        def each(sums: Sequence[Any]) -> list[Sequence[Any]]:
            """The vectors of each sum."""
            return [sums[k : k + parts] for k in range(0, len(sums), parts)]

        def all_on(place: Any, sums: Sequence[Any]) -> list[Any]:
            moved = [
                onto(one, abreast, read(b.add(place, _I64(STEP * k)))) for k, one in enumerate(each(sums))
            ]
            return [v for one in moved for v in one]

        # The sum so far is the last of those abreast: the others are of nothing.
        stored = [b.load(p, align=8) for p in places(kept, args[4])]
        nothing = [ir.Constant(vector, None)] * (parts * (abreast - 1))
        place, sums = loop(args[1], abreast * STEP, [*nothing, *stored], all_on)
        *before, joined = each(sums)
        for k, one in enumerate(before):
            joined = onto(one, abreast - 1 - k, joined)
        _, joined = loop(place, STEP, joined, lambda place, sums: onto(sums, 1, read(place)))
        for v, p in zip(joined, places(kept, args[4]), strict=True):
            b.store(v, p, align=8)
        return context.get_dummy_value()

    return types.void(payload, types.intp, types.intp, states, types.intp), codegen


@intrinsic
def _carryless(typingctx, a, b_):
    """The product of two words, (low, high)."""
    result = types.UniTuple(types.uint64, 2)

    def codegen(context, b, signature, args):
        vector = ir.VectorType(_I64, 2)
        x, y = (b.insert_element(ir.Constant(vector, None), value, ir.IntType(32)(0)) for value in args)
        found = _multiply(b, x, y, 0x00)
        words = [b.extract_element(found, ir.IntType(32)(k)) for k in (0, 1)]
        return context.make_tuple(b, signature.return_type, words)

    return result(types.uint64, types.uint64), codegen


# Of all but the last 16 bytes of a sum.
_LANES = np.array([_factors(128 * k) for k in (3, 2, 1)], dtype=np.uint64)
_NOTHING = np.uint64(0)


def _quotient() -> int:
    """x^128 divided by the polynomial, without its own x^64; reflected."""
    found, register = 0, POLYNOMIAL
    for k in range(64):
        found |= (register & 1) << k
        register = stepped(register)
    return found


# With their highest powers of x, which are the lowest bits: of 65 bits that one is left out, and added by hand.
_INVERSE = np.uint64((_quotient() << 1 | 1) & 2**64 - 1)
_MODULUS = np.uint64((POLYNOMIAL << 1 | 1) & 2**64 - 1)


@helper
def _word_on(register):
    """register · x^64 modulo the polynomial (Barrett: the quotient by a product, and what it leaves by another)."""
    quotient = _carryless(register, _INVERSE)[0]
    return np.uint64(_carryless(quotient, _MODULUS)[1] ^ quotient)


@helper
def begun(payload, begin, end, states, at):
    """The sum of the first of bytes begin..end at byte `at` of states, so many that a multiple of STEP is left.

    Returns where that begins. Zeros in front change no register that is 0, so the bytes stand at the sum's end.
    """
    for i in range(_WORDS):
        store(states, at + 8 * i, _NOTHING)
    first = (end - begin) & (STEP - 1)
    for back in range(8, first + 1, 8):
        store(states, at + STEP - back, load64(payload, begin + first - back))
    for i in range(first & 7):
        store(states, at + STEP - first + i, load8(payload, begin + i))
    return begin + first


@helper
def registered(states, at):
    """The register behind the sum at byte `at` of states."""
    low, high = load64(states, at + STEP - 16), load64(states, at + STEP - 8)
    for k in range(3):
        first = _carryless(load64(states, at + 16 * k), _LANES[k, 0])
        second = _carryless(load64(states, at + 16 * k + 8), _LANES[k, 1])
        low ^= first[0] ^ second[0]
        high ^= first[1] ^ second[1]
    return _word_on(np.uint64(_word_on(low) ^ high))


@jit
def _joined(registers, factors):
    """The register behind several parts, from those of each; factors: what brings each of them to the end."""
    found = registers[-1]
    for i in range(factors.size):
        low, high = _carryless(registers[i], factors[i])
        found ^= np.uint64(_word_on(low) ^ high)
    return found


class Parts:
    """The registers of the parts of payloads of one length -> their CRC-64/XZ.

    ends: bytes up to and with each part, ascending. inverted: what the inversions at both ends come to; one part's
    register and that are the digest.
    """

    def __init__(self, ends: Sequence[int]):
        size = ends[-1]
        self.inverted = crc64.xz(bytes(size))
        self._factors = np.array([power(8 * (size - end) - 1) for end in ends[:-1]], dtype=np.uint64)

    def digest(self, registers: Sequence[int]) -> int:
        """registers: those of each part alone."""
        return self.inverted ^ int(_joined(np.array(registers, dtype=np.uint64), self._factors))
