"""Sixteen buckets at a time, a lane of a vector each, as explicit LLVM vectors (numba intrinsics).

LLVM makes of them what the processor has: AVX-512, AVX2, SSE2, NEON. All sums are of integers: their order does not
matter; reference.py says what is computed. An array holds positions one after the other, LANES elements each.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types

from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba.jit import intrinsic
from qafel_mpi.kernels.reference import EDEN_CUTS, EDEN_LEVELS

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()
_MAGIC, _MAGIC_BITS = 1.5 * 2.0**23, 0x4B400000  # added to |y| < 2^22 it leaves rint(y) in the low bits
GROUP = 8  # positions that one call takes


def _of(element: Any) -> Any:
    return ir.VectorType(element, LANES)


def _all(element: Any, value: float | int) -> Any:
    """A vector of one constant."""
    return ir.Constant(_of(element), [value] * LANES)


def _spread(b: Any, scalar: Any) -> Any:
    """A vector of one value."""
    one = b.insert_element(ir.Constant(_of(scalar.type), ir.Undefined), scalar, _I32(0))
    return b.shuffle_vector(one, ir.Constant(_of(scalar.type), ir.Undefined), _all(_I32, 0))


class _Array:
    """An argument of an intrinsic, read and written in vectors from element `at` on."""

    def __init__(self, context: Any, b: Any, kind: Any, value: Any):
        self.b, self.element = b, context.get_data_type(kind.dtype)
        self.data = context.make_array(kind)(context, b, value).data
        self.align = context.get_abi_sizeof(self.element)

    def pointer(self, at: Any) -> Any:
        return self.b.bitcast(self.b.gep(self.data, [at]), _of(self.element).as_pointer())

    def load(self, at: Any) -> Any:
        return self.b.load(self.pointer(at), align=self.align)

    def store(self, value: Any, at: Any) -> None:
        self.b.store(value, self.pointer(at), align=self.align)

    def scalar(self, at: Any) -> Any:
        return self.b.load(self.b.gep(self.data, [at]))


def _vector_code(emit: Callable[..., None], arguments: str) -> Any:
    """A numba function of these arguments (a: array, i: index, f: float32), for its effect on the arrays.

    emit(builder, *arguments) writes the LLVM code.
    """

    def build(typingctx: Any, *kinds: Any) -> Any:
        wanted = [
            {"a": kind, "i": types.intp, "f": types.float32}[letter]
            for letter, kind in zip(arguments, kinds, strict=True)
        ]

        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            made = [
                _Array(context, b, kind, value) if letter == "a" else value
                for letter, kind, value in zip(arguments, signature.args, args, strict=True)
            ]
            emit(b, *made)
            return context.get_dummy_value()

        return types.void(*wanted), codegen

    # numba takes a function's arguments one by one, by the names in its signature.
    names = ["typingctx", *(f"{letter}{k}" for k, letter in enumerate(arguments))]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    build.__signature__ = inspect.Signature([inspect.Parameter(n, positional) for n in names])  # type: ignore[attr-defined]
    return intrinsic(build)


def _transform(b: Any, v: list[Any]) -> list[Any]:
    """Sums and differences of all pairs of positions, largest stride first: a Hadamard transform of len(v)."""
    v, half = list(v), len(v) // 2
    floats = isinstance(v[0].type.element, ir.FloatType | ir.DoubleType)
    plus, minus = (b.fadd, b.fsub) if floats else (b.add, b.sub)
    while half:
        for i in range(len(v)):
            if not i & half:
                v[i], v[i + half] = plus(v[i], v[i + half]), minus(v[i], v[i + half])
        half //= 2
    return v


def _butterflies(radix: int) -> Any:
    """butterflies(z, at, stride): the transform of `radix` positions, `stride` elements apart from `at`."""

    def emit(b: Any, z: _Array, at: Any, stride: Any) -> None:
        places = [b.add(at, b.mul(stride, _I64(k))) for k in range(radix)]
        for value, place in zip(_transform(b, [z.load(p) for p in places]), places, strict=True):
            z.store(value, place)

    return _vector_code(emit, "aii")


def _flipped(b: Any, signs: _Array, at: Any) -> list[Any]:
    """For GROUP positions a mask of the lanes whose sign is minus. signs: uint32, two positions each."""
    masks = []
    for i in range(GROUP):
        word = signs.scalar(b.add(at, _I64(i // 2)))
        half = b.trunc(b.lshr(word, _I32(16 * (i & 1))), _I16)
        masks.append(b.bitcast(half, _of(_I1)))
    return masks


def _place(b: Any, at: Any, i: int) -> Any:
    return b.add(at, _I64(LANES * i))


def _emit_row(b: Any, source: _Array, at: Any, width: Any, out: _Array, out_at: Any) -> None:
    """out = the first `width` elements of source from `at` on, LANES of them; zeros behind."""
    lanes = ir.Constant(_of(_I64), list(range(LANES)))
    zeros = ir.Constant(_of(out.element), None)
    out.store(b.select(b.icmp_signed("<", lanes, _spread(b, width)), source.load(at), zeros), out_at)


def _emit_copy(b: Any, source: _Array, at: Any, out: _Array, out_at: Any) -> None:
    """out = source, LANES elements."""
    out.store(source.load(at), out_at)


class _Norms:
    """Sums of squares of int32, int64: of the even lanes, then of the odd ones."""

    def __init__(self, b: Any, array: _Array):
        kind = ir.VectorType(_I64, LANES // 2)
        self.b, self.at = (
            b,
            [b.bitcast(b.gep(array.data, [_I64(n)]), kind.as_pointer()) for n in (0, LANES // 2)],
        )
        self.sums = [b.load(p, align=8) for p in self.at]

    def add(self, k: Any) -> None:
        """+= k². It is a shift and two multiplications of the lower halves of int64, which x86 has."""
        b = self.b
        pairs = b.bitcast(k, ir.VectorType(_I64, LANES // 2))
        half = ir.Constant(pairs.type, [32] * (LANES // 2))
        wide = [b.ashr(b.shl(pairs, half), half), b.ashr(pairs, half)]
        self.sums = [b.add(total, b.mul(w, w)) for total, w in zip(self.sums, wide, strict=True)]

    def store(self) -> None:
        for total, p in zip(self.sums, self.at, strict=True):
            self.b.store(total, p, align=8)


def _emit_to_integers(
    b: Any, v: _Array, v_at: Any, z: _Array, at: Any, factor: Any, signs: _Array, signs_at: Any, norms: _Array
) -> None:
    """z = rint(± v · factor), int32, of v as float32; norms, int64, += z². v is read from v_at, z written from at."""
    norm, scale = _Norms(b, norms), _spread(b, factor)
    for i, minus in enumerate(_flipped(b, signs, signs_at)):
        x = v.load(_place(b, v_at, i))
        y = b.fmul(x if v.element == _F32 else b.fptrunc(x, _of(_F32)), scale)
        y = b.select(minus, b.fneg(y), y)
        k = b.sub(b.bitcast(b.fadd(y, _all(_F32, _MAGIC)), _of(_I32)), _all(_I32, _MAGIC_BITS))
        z.store(k, _place(b, at, i))
        norm.add(k)
    norm.store()


def _emit_again(b: Any, z: _Array, at: Any, shift: Any, signs: _Array, signs_at: Any, norms: _Array) -> None:
    """GROUP positions' last butterflies, then z = ± round(z / 2^shift) for a second rotation; norms += z²."""
    norm, by = _Norms(b, norms), b.trunc(shift, _I32)
    half = _spread(b, b.shl(_I32(1), b.sub(by, _I32(1))))
    bits = _spread(b, by)
    values = _transform(b, [z.load(_place(b, at, i)) for i in range(GROUP)])
    for i, minus in enumerate(_flipped(b, signs, signs_at)):
        k = b.ashr(b.add(values[i], half), bits)
        k = b.select(minus, b.neg(k), k)
        z.store(k, _place(b, at, i))
        norm.add(k)
    norm.store()


def _products(b: Any, x: Any, y: Any) -> Any:
    """x · y added up in pairs of neighbours, int32. x, y: pairs of int16."""
    nothing = ir.Constant(x.type, ir.Undefined)
    terms = []
    for first in (0, 1):  # in the order in which LLVM knows one instruction for all this
        every = ir.Constant(_of(_I32), list(range(first, 2 * LANES, 2)))
        half = [b.sext(b.shuffle_vector(v, nothing, every), _of(_I32)) for v in (x, y)]
        terms.append(b.mul(*half))
    return b.add(*terms)


def _choose(b: Any, masks: list[Any], choices: list[Any]) -> Any:
    """choices[k], k the number whose bits, the highest first, are the masks."""
    if not masks:
        return choices[0]
    half = len(choices) // 2
    low, high = _choose(b, masks[1:], choices[:half]), _choose(b, masks[1:], choices[half:])
    return b.select(masks[0], high, low)


def _quantize(bits: int, squared: bool) -> Any:
    """quantize(z, at, inverses, sums, squares, codes, codes_at): GROUP positions' last butterflies, and their codes.

    inverses: float32, what makes EDEN_UNIT of a standard deviation. sums, squares: int32, += size · level, level²;
    not squared: squares are left as they are, which takes a twentieth less time at 4 bits.
    codes: uint8. Two positions at a time, the low and the high half of an int32: their 16-bit numbers are neighbours.
    """
    levels, cuts = EDEN_LEVELS[bits], EDEN_CUTS[bits]
    pairs = ir.VectorType(_I16, 2 * LANES)

    def every(value: int) -> Any:
        return ir.Constant(pairs, [value] * (2 * LANES))

    def emit(
        b: Any,
        z: _Array,
        at: Any,
        inverses: _Array,
        sums: _Array,
        squares: _Array,
        codes: _Array,
        codes_at: Any,
    ) -> None:
        total, square, inverse = sums.load(_I64(0)), squares.load(_I64(0)), inverses.load(_I64(0))
        together = 4 if bits <= 2 else 2  # pairs whose codes fit into 16 bits for each half
        word = _all(_I32, 0)
        values = _transform(b, [z.load(_place(b, at, i)) for i in range(GROUP)])
        # rint(z · inverse) in the low 16 bits: below 2^15.
        values = [b.fadd(b.fmul(b.sitofp(v, _of(_F32)), inverse), _all(_F32, _MAGIC)) for v in values]
        patterns = [b.bitcast(v, _of(_I32)) for v in values]
        for i in range(0, GROUP, 2):
            low, high = b.and_(patterns[i], _all(_I32, 0xFFFF)), b.shl(patterns[i + 1], _all(_I32, 16))
            pair = b.bitcast(b.or_(low, high), pairs)
            minus = b.icmp_signed("<", pair, every(0))
            size = b.select(minus, b.neg(pair), pair)
            k = i // 2 % together
            if k == 0:
                code = every(0)
            shift = 2 * bits * k  # the codes between are those of the other half
            code = b.or_(code, b.select(minus, every(1 << (bits - 1) << shift), every(0)))
            over: list[Any] = []
            for bit in (
                1 << k for k in range(bits - 2, -1, -1)
            ):  # the cuts above `size` are halved each time
                bound = _choose(b, over, [every(cut) for cut in cuts[bit - 1 :: 2 * bit]])
                over.append(b.icmp_signed(">", size, bound))
                code = b.or_(code, b.select(over[-1], every(bit << shift), every(0)))
            level = _choose(b, over, [every(one) for one in levels])
            total = b.add(total, _products(b, size, level))
            if squared:
                square = b.add(square, _products(b, level, level))
            if k == together - 1:
                both = b.bitcast(code, _of(_I32))
                both = b.or_(b.and_(both, _all(_I32, 0xFFFF)), b.lshr(both, _all(_I32, 16 - bits)))
                word = b.or_(word, b.shl(both, _all(_I32, bits * (i - 2 * k))))
        sums.store(total, _I64(0))
        if squared:
            squares.store(square, _I64(0))
        for j in range(bits):
            byte = b.trunc(b.lshr(word, _all(_I32, 8 * j)), _of(_I8))
            codes.store(byte, b.add(codes_at, _I64(LANES * j)))

    return _vector_code(emit, "aiaaaai")


def _signed_levels(b: Any, codes: _Array, at: Any, bits: int, kind: Any) -> list[Any]:
    """GROUP positions' levels with their signs, vectors of `kind`, from `bits` vectors of bytes."""
    levels, half, word = EDEN_LEVELS[bits], 1 << (bits - 1), _all(_I32, 0)
    for j in range(bits):
        byte = b.zext(codes.load(b.add(at, _I64(LANES * j))), _of(_I32))
        word = b.or_(word, b.shl(byte, _all(_I32, 8 * j)))
    found = []
    for i in range(GROUP):
        code = b.and_(b.lshr(word, _all(_I32, bits * i)), _all(_I32, 2 * half - 1))
        code = code if kind == _I32 else b.trunc(code, _of(kind))
        size = b.and_(code, _all(kind, half - 1))
        level = _all(kind, levels[0])
        for k in range(1, half):
            more = _all(kind, levels[k] - levels[k - 1])
            level = b.add(level, b.select(b.icmp_signed(">=", size, _all(kind, k)), more, _all(kind, 0)))
        found.append(b.select(b.icmp_signed(">=", code, _all(kind, half)), b.neg(level), level))
    return found


def _levels_of(bits: int) -> Any:
    """levels_of(codes, codes_at, z, at): GROUP positions' levels, of z's type, from their codes."""

    def emit(b: Any, codes: _Array, codes_at: Any, z: _Array, at: Any) -> None:
        for i, level in enumerate(_signed_levels(b, codes, codes_at, bits, z.element)):
            z.store(level, _place(b, at, i))

    return _vector_code(emit, "aiai")


def _sum_levels(bits: int) -> Any:
    """sum_levels(codes, codes_at, factors, acc, acc_at): acc += level · factor: a sum in the rotated basis."""

    def emit(b: Any, codes: _Array, codes_at: Any, factors: _Array, acc: _Array, acc_at: Any) -> None:
        factor = factors.load(_I64(0))
        for i, level in enumerate(_signed_levels(b, codes, codes_at, bits, _I16)):
            place = _place(b, acc_at, i)
            term = b.fmul(b.sitofp(b.sext(level, _of(_I32)), _of(acc.element)), factor)
            acc.store(b.fadd(acc.load(place), term), place)

    return _vector_code(emit, "aiaai")


def _wide(b: Any, z: _Array, at: Any) -> list[Any]:
    """GROUP positions with their last butterflies, int32."""
    values = [z.load(_place(b, at, i)) for i in range(GROUP)]
    values = values if z.element == _I32 else [b.sext(v, _of(_I32)) for v in values]
    return _transform(b, values)


def _emit_back(b: Any, z: _Array, out: _Array, at: Any, signs: _Array, signs_at: Any) -> None:
    """out = ± z, int32, after the last butterflies: between two rotations."""
    for i, (value, minus) in enumerate(zip(_wide(b, z, at), _flipped(b, signs, signs_at), strict=True)):
        out.store(b.select(minus, b.neg(value), value), _place(b, at, i))


def _add(assign: bool) -> Any:
    """add(z, at, factors, signs, signs_at, acc, acc_at): acc += ± z · factor after the last butterflies.

    factors: a vector of acc's type, which the sums are in.
    """

    def emit(
        b: Any, z: _Array, at: Any, factors: _Array, signs: _Array, signs_at: Any, acc: _Array, acc_at: Any
    ) -> None:
        factor = factors.load(_I64(0))
        for i, (value, minus) in enumerate(zip(_wide(b, z, at), _flipped(b, signs, signs_at), strict=True)):
            signed = b.select(minus, b.neg(value), value)
            term = b.fmul(b.sitofp(signed, _of(acc.element)), factor)
            place = _place(b, acc_at, i)
            acc.store(term if assign else b.fadd(acc.load(place), term), place)

    return _vector_code(emit, "aiaaiai")


def _emit_flip(b: Any, z: _Array, at: Any, factors: _Array, signs: _Array, signs_at: Any) -> None:
    """z = ± z · factor for GROUP positions. factors: a vector of z's type."""
    factor = factors.load(_I64(0))
    for i, minus in enumerate(_flipped(b, signs, signs_at)):
        value = b.fmul(z.load(_place(b, at, i)), factor)
        z.store(b.select(minus, b.fneg(value), value), _place(b, at, i))


butterflies2, butterflies4, butterflies8 = _butterflies(2), _butterflies(4), _butterflies(8)
row, copy = _vector_code(_emit_row, "aiiai"), _vector_code(_emit_copy, "aiai")
to_integers = _vector_code(_emit_to_integers, "aiaifaia")
again = _vector_code(_emit_again, "aiiaia")
back = _vector_code(_emit_back, "aaiai")
quantize1, quantize2, quantize3, quantize4 = (_quantize(bits, squared=False) for bits in (1, 2, 3, 4))
squared1, squared2, squared3, squared4 = (_quantize(bits, squared=True) for bits in (1, 2, 3, 4))
levels_of1, levels_of2, levels_of3, levels_of4 = (_levels_of(bits) for bits in (1, 2, 3, 4))
add, assign = _add(assign=False), _add(assign=True)
sum_levels1, sum_levels2, sum_levels3, sum_levels4 = (_sum_levels(bits) for bits in (1, 2, 3, 4))
flip = _vector_code(_emit_flip, "aiaai")
