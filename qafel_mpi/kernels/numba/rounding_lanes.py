"""Stochastic rounding to codes of 1, 2 and 4 bits as explicit LLVM vectors (numba intrinsics).

reference.py says what is computed. A level's float, its draw and its code stay in registers: what goes through memory
are the values and the codes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.packing_lanes import GROUP, packed
from qafel_mpi.kernels.numba.vectors import F32, I8, I16, I32, I64, LANES, Lanes, Vector, function
from qafel_mpi.kernels.reference import MIX1, MIX2, WEYL

MAGIC = 1.5 * 2.0**23  # added to |y| < 2^22 it leaves rint(y) in the low bits
MAGIC_HIGH = 0x4B40  # the 16 bits above those
_AHEAD = 2048  # elements: how far before their turn values are asked for, a few buckets of the usual size


class Draws:
    """The draws of 2 · LANES slots after the other, from `slot` on, which is even: halves of reference.hash32."""

    def __init__(self, b: Any, k0: Any, k1: Any, slot: Any):
        self._words, self._halves = Lanes(b, LANES), Lanes(b, 2 * LANES)
        self._high = self._words.spread(k1)
        pair = b.trunc(b.lshr(slot, I64(1)), I32)
        steps = ir.Constant(self._words.of(I32), [(WEYL * k) & 0xFFFFFFFF for k in range(LANES)])
        begin = b.add(k0, b.mul(pair, I32(WEYL)))
        self._state = cgutils.alloca_once_value(b, b.add(self._words.spread(begin), steps))

    def take(self) -> Any:
        """The next ones: (2 · LANES,) of 16 bits."""
        v, b, state = self._words, self._words.b, self._words.b.load(self._state)
        b.store(b.add(state, v.all(I32, (WEYL * LANES) & 0xFFFFFFFF)), self._state)
        h = b.xor(state, self._high)
        for shift, factor in ((16, MIX1), (15, MIX2)):
            h = b.mul(b.xor(h, b.lshr(h, v.all(I32, shift))), v.all(I32, int(factor)))
        return b.bitcast(b.xor(h, b.lshr(h, v.all(I32, 16))), self._halves.of(I16))


def _joined(b: Any, one: Any, two: Any) -> Any:
    kind = ir.VectorType(I32, 2 * one.type.count)
    return b.shuffle_vector(one, two, ir.Constant(kind, list(range(2 * one.type.count))))


def _round_packer(bits: int) -> Any:
    """round_pack(x, n, inverse, k0, k1, slot, out, at): codes of n values to out from byte `at` on.

    n: a multiple of GROUP. As rounding.round_levels and packing.pack make them. slot: of the draw of the first value.
    """

    def emit(
        b: Any, x: Vector, n: Any, inverse: Any, k0: Any, k1: Any, slot: Any, out: Vector, at: Any
    ) -> None:
        v = Lanes(b, 2 * LANES)
        scale, draws = v.spread(inverse), Draws(b, k0, k1, slot)

        def rounded(first: Any) -> Any:
            """2 · LANES levels, 16 bits each, of which the lower ones count; of one bit the sign."""
            y = b.fmul(v.to(x.load(first, v.lanes), F32), scale)
            y = b.bitcast(b.fadd(y, v.all(F32, MAGIC)), v.of(I32))
            draw = b.zext(draws.take(), v.of(I32))
            if bits == 1:  # 2 · draw + 1 > y + 2^16
                most = b.add(b.shl(draw, v.all(I32, 1)), v.all(I32, (MAGIC_HIGH << 16) + 1 - 65536))
                return b.icmp_signed(">", most, y)
            return b.trunc(b.lshr(b.add(y, draw), v.all(I32, 16)), v.of(I8))

        with cgutils.for_range_slice(b, I64(0), n, I64(GROUP), I64) as (i, _):
            x.ask(b.add(i, I64(_AHEAD)), GROUP)
            levels = _joined(b, rounded(i), rounded(b.add(i, I64(v.lanes))))
            place = b.add(at, b.lshr(b.mul(i, I64(bits)), I64(3)))
            out.store(packed(b, levels, bits), place)

    return function(emit, "aifuuiai", types.void)


round_pack1, round_pack2, round_pack4 = (_round_packer(bits) for bits in (1, 2, 4))
