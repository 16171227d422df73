"""Packing of 1, 2 and 4 bits as explicit LLVM vectors (numba intrinsics): 64 levels at a time, a byte each.

And the way back with 4 bits, 16 codes at a time, from the payload straight to the sum.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.vectors import F32, I8, I16, I32, I64, LANES, Lanes, Vector, function, has

GROUP = 64
_UNROLLED = 8  # groups of LANES codes that a loop takes at a time: 64 bytes


def packed(b: Any, levels: Any, bits: int) -> Any:
    """(8 · bits,) bytes: the codes of GROUP levels, bytes; of one bit of GROUP signs, true for minus."""
    if bits == 1:
        return b.bitcast(levels, ir.VectorType(I8, GROUP // 8))
    element, count = (I32, 16) if bits == 2 else (I16, 32)
    v = Lanes(b, count)
    x = b.bitcast(levels, v.of(element))

    def code(shift: int, mask: int) -> Any:
        return b.and_(b.lshr(x, v.all(element, shift)), v.all(element, mask))

    if bits == 2:
        found = b.or_(b.or_(code(0, 3), code(6, 12)), b.or_(code(12, 48), code(18, 192)))
    else:
        found = b.or_(code(0, 15), code(4, 0xF0))
    return b.trunc(found, v.of(I8))


def _packer(bits: int) -> Any:
    """pack(levels, out, groups): the codes of GROUP levels each, `bits` · 8 bytes; the sign where that is one bit."""

    def emit(b: Any, levels: Vector, out: Vector, groups: Any) -> None:
        v = Lanes(b, GROUP)
        with cgutils.for_range(b, groups, intp=I64) as loop:
            x = levels.load(b.mul(loop.index, I64(GROUP)), GROUP)
            if bits == 1:
                x = b.icmp_signed("<", x, v.all(levels.element, 0))
            elif levels.element != I8:  # compiled for wide levels, too, which `pack` does not send here
                x = b.trunc(x, v.of(I8))
            out.store(packed(b, x, bits), b.mul(loop.index, I64(8 * bits)))

    return function(emit, "aai", types.void)


pack1, pack2, pack4 = (_packer(bits) for bits in (1, 2, 4))


def _adder(assign: bool) -> Any:
    """add(payload, at, groups, factor, acc, begin): acc[begin:] += code · factor, or = that, of LANES · groups
    signed codes from byte `at` on. factor: of acc's type."""

    def emit(b: Any, payload: Vector, at: Any, groups: Any, factor: Any, acc: Vector, begin: Any) -> None:
        v, own = Lanes(b, LANES), acc.element
        factors = v.spread(factor)
        words, halves = ir.VectorType(I32, 2), ir.Constant(v.of(I32), [k // 8 for k in range(LANES)])
        # Every code's value lies in a register of 16, of which one instruction takes 16 by the lowest 4 bits each.
        looked_up = own == F32 and has("avx512f")
        levels = ir.Constant(v.of(own), [float(i if i < 8 else i - 16) for i in range(LANES)])
        values = b.fmul(levels, factors)
        kind = ir.FunctionType(values.type, [values.type, v.of(I32)])

        def value(word: Any) -> Any:
            if looked_up:
                codes = b.lshr(word, ir.Constant(v.of(I32), [4 * (k % 8) for k in range(LANES)]))
                name = "llvm.x86.avx512.permvar.sf.512"
                return b.call(cgutils.get_or_insert_function(b.module, kind, name), [values, codes])
            top = b.shl(word, ir.Constant(v.of(I32), [28 - 4 * (k % 8) for k in range(LANES)]))
            return b.fmul(b.sitofp(b.ashr(top, v.all(I32, 28)), v.of(own)), factors)

        def add(group: Any) -> None:
            byte = b.gep(payload.data, [b.add(at, b.mul(group, I64(LANES // 2)))])
            eight = b.load(b.bitcast(byte, words.as_pointer()), align=1)
            added = value(b.shuffle_vector(eight, ir.Constant(words, ir.Undefined), halves))
            place = b.add(begin, b.mul(group, I64(LANES)))
            acc.store(added if assign else b.fadd(acc.load(place, LANES), added), place)

        whole = b.and_(groups, I64(-_UNROLLED))
        for first, last, step in ((I64(0), whole, _UNROLLED), (whole, groups, 1)):
            with cgutils.for_range_slice(b, first, last, I64(step), I64) as (group, _):
                for k in range(step):
                    add(b.add(group, I64(k)))

    return function(emit, "aiisai", types.void)


add4, put4 = _adder(False), _adder(True)
