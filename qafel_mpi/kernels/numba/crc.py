"""CRC-64/XZ of a payload beside what a kernel does with its bytes, 64 of them at a time.

Such a kernel waits for memory: it has time for a few instructions more on bytes that it reads anyway. Carry-less
products bring a sum of 64 bytes forward by 64 and leave what it is modulo the polynomial ("folding": Gopal et al.,
Fast CRC Computation for Generic Polynomials Using PCLMULQDQ, Intel 2009). A register is the CRC's, with no inversion
at either end: it is 0 before the first byte, and linear in the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from fastcrc import crc64
from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core import cgutils

from qafel_mpi.kernels.numba.jit import helper, intrinsic, jit, load64

POLYNOMIAL = 0xC96C5795D7870F42  # reflected: the lowest bit has the highest power of x
_config: Any = config  # its stubs know no variable
STEP = 64  # bytes
STATE = STEP // 8  # words of one sum
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
    if _config.CPU_NAME not in (None, "host") or _config.CPU_FEATURES:  # fewer than this processor has
        return 0
    has = binding.get_host_cpu_features()
    if has.get("vpclmulqdq") and has.get("avx512f") and _config.ENABLE_AVX:
        return 512
    return 128 if has.get("pclmul") else 0


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
    """Bytes begin..end of the payload, a multiple of STEP, behind those whose sum is states[at : at + STATE]."""

    def codegen(context, b, signature, args):
        lanes = max(2, width() // 64)
        vector = ir.VectorType(_I64, lanes)
        parts = STATE // lanes
        factors = ir.Constant(vector, list(_factors(8 * STEP)) * (lanes // 2))

        def pointers(kind: Any, value: Any, byte: Any) -> list[Any]:
            data = b.bitcast(context.make_array(kind)(context, b, value).data, _I8.as_pointer())
            places = [b.add(byte, _I64(8 * lanes * k)) for k in range(parts)]
            return [b.bitcast(b.gep(data, [place]), vector.as_pointer()) for place in places]

        stored = pointers(signature.args[3], args[3], b.mul(args[4], _I64(8)))
        first = [b.load(p, align=8) for p in stored]
        before, loop, done = b.block, b.append_basic_block("fold"), b.append_basic_block("folded")
        b.cbranch(b.icmp_signed("<", args[1], args[2]), loop, done)

        b.position_at_end(loop)
        here, sums = b.phi(_I64), [b.phi(vector) for _ in range(parts)]
        read = [b.load(p, align=1) for p in pointers(signature.args[0], args[0], here)]
        moved = [
            b.xor(b.xor(_multiply(b, s, factors, 0x00), _multiply(b, s, factors, 0x11)), r)
            for s, r in zip(sums, read, strict=True)
        ]
        following = b.add(here, _I64(STEP))
        for phi, start, next_ in zip([here, *sums], [args[1], *first], [following, *moved], strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(next_, loop)
        b.cbranch(b.icmp_signed("<", following, args[2]), loop, done)

        b.position_at_end(done)
        found = [b.phi(vector) for _ in range(parts)]
        for phi, start, last in zip(found, first, moved, strict=True):
            phi.add_incoming(start, before)
            phi.add_incoming(last, loop)
        for phi, place in zip(found, stored, strict=True):
            b.store(phi, place, align=8)
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
_255, _8 = np.uint64(255), np.uint64(8)


@helper
def _byte_on(register):
    return np.uint64(TABLE[np.intp(register & _255)] ^ (register >> _8))


@helper
def _word_on(register):
    for _ in range(8):
        register = _byte_on(register)
    return register


@helper
def registered(payload, begin, end, states, at):
    """The register behind the sum states[at : at + STATE] and bytes begin..end of the payload, fewer than STEP."""
    low, high = states[at + 6], states[at + 7]
    for k in range(3):
        first = _carryless(states[at + 2 * k], _LANES[k, 0])
        second = _carryless(states[at + 2 * k + 1], _LANES[k, 1])
        low ^= first[0] ^ second[0]
        high ^= first[1] ^ second[1]
    register = _word_on(np.uint64(_word_on(low) ^ high))
    while begin + 8 <= end:
        register = _word_on(np.uint64(register ^ load64(payload, begin)))
        begin += 8
    for i in range(begin, end):
        register = _byte_on(np.uint64(register ^ np.uint64(payload[i])))
    return register


@jit
def _joined(registers, factors):
    """The register behind several parts, from those of each; factors: what brings each of them to the end."""
    found = registers[-1]
    for i in range(factors.size):
        low, high = _carryless(registers[i], factors[i])
        found ^= np.uint64(_word_on(low) ^ high)
    return found


class Parts:
    """Registers of the parts of payloads of one length -> their CRC-64/XZ.

    ends: bytes up to and with each part, ascending.
    """

    def __init__(self, ends: Sequence[int]):
        size = ends[-1]
        self._inverted = crc64.xz(bytes(size))  # what the inversions at both ends come to
        self._factors = np.array([power(8 * (size - end) - 1) for end in ends[:-1]], dtype=np.uint64)

    def digest(self, registers: np.ndarray) -> int:
        """registers: (parts,) uint64, those of each part alone."""
        if self._factors.size:
            return self._inverted ^ int(_joined(np.ascontiguousarray(registers), self._factors))
        return self._inverted ^ int(registers[0])
