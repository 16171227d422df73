"""Packing of 1, 2 and 4 bits as explicit LLVM vectors (numba intrinsics): 64 levels at a time, a byte each."""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.vectors import I8, I16, I32, I64, Lanes, Vector, function

GROUP = 64


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
