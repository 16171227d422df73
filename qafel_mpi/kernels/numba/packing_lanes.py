"""Packing of 1, 2 and 4 bits as explicit LLVM vectors (numba intrinsics): 64 levels at a time, a byte each."""

from __future__ import annotations

from typing import Any

from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.vectors import I8, I16, I32, I64, Lanes, Vector, function

GROUP = 64


def _packer(bits: int) -> Any:
    """pack(levels, out, groups): the codes of GROUP levels each, `bits` · 8 bytes; the sign where that is one bit."""
    element, count = {1: (I8, 64), 2: (I32, 16), 4: (I16, 32)}[bits]

    def emit(b: Any, levels: Vector, out: Vector, groups: Any) -> None:
        v = Lanes(b, count)

        def code(x: Any, shift: int, mask: int) -> Any:
            return b.and_(b.lshr(x, v.all(element, shift)), v.all(element, mask))

        with cgutils.for_range(b, groups, intp=I64) as loop:
            source, target = (
                b.bitcast(b.gep(a.data, [b.mul(loop.index, I64(size))]), kind.as_pointer())
                for a, size, kind in (
                    (levels, GROUP // levels.align, v.of(element)),
                    (out, 8 * bits, I64 if bits == 1 else v.of(I8)),
                )
            )
            x = b.load(source, align=1)
            if bits == 1:
                packed = b.bitcast(b.icmp_signed("<", x, v.all(I8, 0)), I64)
            elif bits == 2:
                low, high = b.or_(code(x, 0, 3), code(x, 6, 12)), b.or_(code(x, 12, 48), code(x, 18, 192))
                packed = b.trunc(b.or_(low, high), v.of(I8))
            else:
                packed = b.trunc(b.or_(code(x, 0, 15), code(x, 4, 0xF0)), v.of(I8))
            b.store(packed, target, align=1)

    return function(emit, "aai", types.void)


pack1, pack2, pack4 = (_packer(bits) for bits in (1, 2, 4))
