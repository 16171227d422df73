"""fp4's codes of 32 elements at a time, as explicit LLVM vectors in the way of lanes.py (numba intrinsics).

A byte has two codes, so that the even and the odd elements are a vector each; scales are for 16 elements, and MXFP4
gives each of its own twice. reference_fp4.py says what is computed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from qafel_mpi.kernels.blocks import LANES
from qafel_mpi.kernels.numba.lanes import (
    _F32,
    _I8,
    _I32,
    _I64,
    _MAGIC,
    _MAGIC_BITS,
    _all,
    _Array,
    _of,
    _place,
    _vector_code,
)
from qafel_mpi.kernels.reference_fp4 import BOUNDS

PAIRS = 2 * LANES  # elements that one call takes
_MAGNITUDE = 0x7FFFFFFF


def _lanes(numbers: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_I32, len(numbers)), numbers)


def _float32(b: Any, v: Any) -> Any:
    return v if v.type.element == _F32 else b.fptrunc(v, _of(_F32))


def _scalar_at(b: Any, array: _Array, at: Any) -> Any:
    return b.gep(array.data, [at])


def _two(b: Any, array: _Array, k: Any) -> Any:
    """A vector with the k-th pair of the array's numbers: the first in the lower half of the lanes."""
    found = ir.Constant(_of(array.element), ir.Undefined)
    for i in range(2):
        at = b.add(b.mul(k, _I64(2)), _I64(i))
        found = b.insert_element(found, b.load(_scalar_at(b, array, at)), _I32(i))
    return b.shuffle_vector(found, found, _lanes([0] * (LANES // 2) + [1] * (LANES // 2)))


def _emit_tops(b: Any, x: _Array, at: Any, tops: _Array, k: Any) -> None:
    """The largest magnitudes' bit patterns, as float32, of 16 elements of x each: the k-th pair of tops."""
    for i in range(2):
        v = b.bitcast(_float32(b, x.load(_place(b, at, i))), _of(_I32))
        v = b.and_(v, _all(_I32, _MAGNITUDE))
        half = LANES // 2
        while half:
            other = b.shuffle_vector(v, v, _lanes([(lane + half) % LANES for lane in range(LANES)]))
            v = b.select(b.icmp_signed(">", v, other), v, other)
            half //= 2
        b.store(b.extract_element(v, _I32(0)), _scalar_at(b, tops, b.add(b.mul(k, _I64(2)), _I64(i))))


def _nearest(b: Any, y: Any) -> Any:
    count = _all(_I32, 0)
    for bound, at in BOUNDS:
        over = b.fcmp_ordered(">=" if at else ">", y, _all(_F32, bound))
        count = b.add(count, b.zext(over, _of(_I32)))
    return count


def _stochastic(b: Any, y: Any, draw: Any) -> Any:
    n = b.fadd(b.fmul(y, _all(_F32, 2.0**17)), _all(_F32, _MAGIC))
    n = b.sub(b.bitcast(n, _of(_I32)), _all(_I32, _MAGIC_BITS))
    more = _all(_I32, 0)
    for bound in (1 << 18, 1 << 19):
        more = b.add(more, b.zext(b.icmp_signed(">=", n, _all(_I32, bound)), _of(_I32)))
    k = b.ashr(b.add(n, b.shl(draw, more)), b.add(more, _all(_I32, 16)))
    return b.add(k, b.add(more, more))


def _codes(near: bool) -> Any:
    """codes(x, at, inverses, k, hashes, hashes_at, out, out_at): 32 elements of x to 16 bytes.

    inverses: float32, of scales of 16 elements each; the k-th pair of them. hashes: uint32, two draws each.
    """

    def emit(
        b: Any, x: _Array, at: Any, inverses: _Array, k: Any, hashes: _Array, hashes_at: Any, out: _Array,
        out_at: Any,
    ) -> None:  # fmt: skip
        first, second = (_float32(b, x.load(_place(b, at, i))) for i in range(2))
        inverse, hashed = _two(b, inverses, k), None if near else hashes.load(hashes_at)
        draws = (b.and_(hashed, _all(_I32, 0xFFFF)), b.lshr(hashed, _all(_I32, 16))) if hashed else ()
        byte = _all(_I32, 0)
        for i in range(2):
            v = b.shuffle_vector(first, second, _lanes(list(range(i, PAIRS, 2))))
            pattern = b.bitcast(v, _of(_I32))
            y = b.fmul(b.bitcast(b.and_(pattern, _all(_I32, _MAGNITUDE)), _of(_F32)), inverse)
            y = b.select(b.fcmp_ordered("<", y, _all(_F32, 6.0)), y, _all(_F32, 6.0))
            code = _nearest(b, y) if near else _stochastic(b, y, draws[i])
            code = b.or_(code, b.and_(b.lshr(pattern, _all(_I32, 28)), _all(_I32, 8)))
            byte = b.or_(byte, b.shl(code, _all(_I32, 4 * i)))
        out.store(b.trunc(byte, _of(_I8)), out_at)

    return _vector_code(emit, "aiaiaiai")


def _twice(b: Any, code: Any) -> Any:
    """reference_fp4.TWICE with a sign, of codes in int32."""
    size = b.and_(code, _all(_I32, 7))
    over = b.sub(size, _all(_I32, 4))
    value = b.add(size, b.select(b.icmp_signed(">", over, _all(_I32, 0)), over, _all(_I32, 0)))
    seven = b.icmp_signed("==", size, _all(_I32, 7))
    value = b.add(value, b.select(seven, _all(_I32, 2), _all(_I32, 0)))
    return b.select(b.icmp_signed(">", code, _all(_I32, 7)), b.neg(value), value)


def _add(assign: bool) -> Any:
    """add(codes, codes_at, factors, k, acc, acc_at): acc += value · factor for 32 elements, or acc = that.

    factors: of acc's type, for 16 elements each, half of what a scale stands for; the k-th pair of them.
    """

    def emit(b: Any, codes: _Array, codes_at: Any, factors: _Array, k: Any, acc: _Array, acc_at: Any) -> None:
        byte = b.zext(codes.load(codes_at), _of(_I32))
        factor = _two(b, factors, k)
        values = (_twice(b, b.and_(byte, _all(_I32, 15))), _twice(b, b.lshr(byte, _all(_I32, 4))))
        even, odd = (b.fmul(b.sitofp(value, _of(acc.element)), factor) for value in values)
        for i in range(2):
            begin = LANES // 2 * i
            order = [lane + side * LANES for lane in range(begin, begin + LANES // 2) for side in (0, 1)]
            term, place = b.shuffle_vector(even, odd, _lanes(order)), _place(b, acc_at, i)
            acc.store(term if assign else b.fadd(acc.load(place), term), place)

    return _vector_code(emit, "aiaiai")


tops = _vector_code(_emit_tops, "aiai")
codes_nearest, codes_stochastic = _codes(near=True), _codes(near=False)
add, assign = _add(assign=False), _add(assign=True)
