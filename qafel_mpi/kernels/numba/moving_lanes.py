"""The loops of a server's step as explicit LLVM vectors (numba intrinsics): each vector is read and written once.

What LLVM makes of plain loops takes twice as long here: next to a sum in float64 it works on half as many float32 at
a time. The norms are of differences rounded to the vectors' type. Their squares are summed in float64: a lane each of
a vector register, in the same order on every processor. The elements behind the last whole vector go through the same
code, one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.rounding_lanes import MAGIC, MAGIC_HIGH, Draws
from qafel_mpi.kernels.numba.vectors import (
    F32,
    F64,
    I32,
    I64,
    LANES,
    Lanes,
    Vector,
    function,
    in_lanes,
)

SGD, MOMENTUM, NESTEROV, ADAM = range(4)
ZERO, FACTOR, BETA, RATE, EPSILON = range(5)  # of Motion.numbers
STEP, DIFFERENCE, GAP = range(3)  # rows of the sums, LANES each: ‖x' − x‖², ‖x' − x̂‖² and ‖x' − x̂'‖²
SUMS = 3 * LANES

_HALF = LANES // 2
_CHUNK = 512  # elements whose differences are added up at a time, in the first-level cache


class _Sum:
    """A row of the sums while a loop adds to it, in registers."""

    def __init__(self, v: Lanes, sums: Vector, row: int):
        self.b, self.sums, self.width = v.b, sums, min(v.lanes, _HALF)
        self.places = [I64(LANES * row + first) for first in range(0, min(v.lanes, LANES), self.width)]
        self.kept = [cgutils.alloca_once_value(v.b, sums.load(at, self.width)) for at in self.places]

    def add(self, k: int, difference: Any) -> None:
        """The squares of part k of a vector: `width` elements."""
        b, wide = self.b, Lanes(self.b, self.width).to(difference, F64)
        square = b.fmul(wide, wide, flags=("contract",))
        kept = self.kept[k % len(self.kept)]
        b.store(b.fadd(b.load(kept), square, flags=("contract",)), kept)

    def add_all(self, differences: Any) -> None:
        """The squares of a whole vector."""
        nothing = ir.Constant(differences.type, ir.Undefined)
        for k in range(differences.type.count // self.width):
            some = [I32(self.width * k + j) for j in range(self.width)]
            mask = ir.Constant(ir.VectorType(I32, self.width), some)
            self.add(k, self.b.shuffle_vector(differences, nothing, mask))

    def end(self) -> None:
        for kept, at in zip(self.kept, self.places, strict=True):
            self.sums.store(self.b.load(kept), at)


def _room(b: Any) -> Any:
    """_CHUNK float32 on the stack."""
    with b.goto_entry_block():
        made = b.alloca(ir.ArrayType(F32, _CHUNK))
    made.align = 4 * LANES
    return b.bitcast(made, F32.as_pointer())


def _add_squares(
    v: Lanes,
    begin: Any,
    end: Any,
    sums: Vector,
    rows: list[int],
    x: Vector,
    body: Callable[[Any], list[Any]],
    *,
    again: bool = False,
    last_at: Callable[[Any], Any] | None = None,
) -> None:
    """body(i) of every vector, of elements i to i + lanes, from begin to end; rows of the sums grow by the squares
    of the differences that it returns, in x's type.

    again: float32 is written down and read again. Half a register from memory is converted to float64 by one
    instruction on x86, from a register by two or three, and with three norms these took half of the time of a step
    that rounds at random. Where all is copied, memory is waited for, and the registers are faster.
    last_at(i): where body itself writes the last row's differences, if it does.
    """
    b = v.b

    def steps(first: Any, last: Any, lanes: int) -> Any:
        return cgutils.for_range_slice(b, first, last, I64(lanes), I64)

    if not again or x.element == F64 or v.lanes == 1:
        totals = [_Sum(v, sums, row) for row in rows]
        with steps(begin, end, v.lanes) as (i, _):
            for total, difference in zip(totals, body(i), strict=True):
                total.add_all(difference)
        for total in totals:
            total.end()
        return
    rooms = [_room(b) for _ in (rows if last_at is None else rows[:-1])]
    with steps(begin, end, _CHUNK) as (first, _):
        left = b.sub(end, first)
        count = b.select(b.icmp_signed("<", left, I64(_CHUNK)), left, I64(_CHUNK))
        with steps(first, b.add(first, count), v.lanes) as (i, _):
            for room, difference in zip(rooms, body(i), strict=False):
                place = b.gep(room, [b.sub(i, first)])
                b.store(difference, b.bitcast(place, difference.type.as_pointer()), align=4 * LANES)
        totals = [_Sum(v, sums, row) for row in rows]
        written = rooms if last_at is None else [*rooms, last_at(first)]
        with steps(I64(0), count, LANES) as (j, _):
            for total, room in zip(totals, written, strict=True):
                for k in (0, 1):
                    place = b.gep(room, [b.add(j, I64(_HALF * k))])
                    total.add(k, b.load(b.bitcast(place, ir.VectorType(F32, _HALF).as_pointer()), align=4))
        for total in totals:
            total.end()


class _Vectors(NamedTuple):
    """What a motion reads and writes: kernels.numba.moving.Motion."""

    total: Vector
    x: Vector
    m: Vector
    root: Vector
    numbers: Vector


def _direction(v: Lanes, a: _Vectors, n: list[Any], i: Any) -> Any:
    """The mean update."""
    total = v.b.fadd(a.total.load(i, v.lanes), n[ZERO])
    return v.b.fmul(total, n[FACTOR])


def _moved(v: Lanes, kind: int, a: _Vectors, n: list[Any], i: Any, old: Any) -> Any:
    """x' of the elements from i on, and m stored. old: their x. reference_step.py has the arithmetic."""
    b = v.b
    if kind == ADAM:
        step = b.fmul(n[RATE], a.m.load(i, v.lanes))
        return b.fadd(old, b.fdiv(step, b.fadd(a.root.load(i, v.lanes), n[EPSILON])))
    g = _direction(v, a, n, i)
    if kind == SGD:
        return v.fma(g, n[RATE], old)
    m = b.fadd(b.fmul(a.m.load(i, v.lanes), n[BETA]), g)
    a.m.store(m, i)
    return v.fma(m if kind == MOMENTUM else v.fma(m, n[BETA], g), n[RATE], old)


def _mover(kind: int) -> Any:
    """move(total, x, m, root, numbers, first, last, sums): x moves; the sums' row STEP grows."""

    def emit(b: Any, *arguments: Any) -> None:
        *vectors, first, last, sums = arguments
        a = _Vectors(*vectors)

        def loop(v: Lanes, begin: Any, end: Any) -> None:
            n = [v.spread(a.numbers.scalar(k)) for k in range(5)]

            def body(i: Any) -> list[Any]:
                old = a.x.load(i, v.lanes)
                new = _moved(v, kind, a, n, i, old)
                a.x.store(new, i)
                return [b.fsub(new, old)]

            _add_squares(v, begin, end, sums, [STEP], a.x, body)

        in_lanes(b, first, last, loop)

    return function(emit, "aaaaaiia", types.void)


def _taker(kind: int, assign: bool, again: bool = False) -> Any:
    """take(total, x, m, root, numbers, x_hat, first, last, sums, values): x moves, and values = x − x̂ or x, rounded.

    The sums' rows STEP and DIFFERENCE grow. again: see _add_squares. Returns the largest magnitude's bit pattern
    among the values.
    """

    def emit(b: Any, *arguments: Any) -> Any:
        *vectors, x_hat, first, last, sums, values = arguments
        a = _Vectors(*vectors)
        word = I32 if values.element == F32 else I64
        top = cgutils.alloca_once_value(b, word(0))

        def loop(v: Lanes, begin: Any, end: Any) -> None:
            n = [v.spread(a.numbers.scalar(k)) for k in range(5)]
            tops = cgutils.alloca_once_value(b, v.all(word, 0))
            magnitude = v.all(word, (1 << (word.width - 1)) - 1)

            def body(i: Any) -> list[Any]:
                old = a.x.load(i, v.lanes)
                new = _moved(v, kind, a, n, i, old)
                a.x.store(new, i)
                difference = new if assign else b.fsub(new, x_hat.load(i, v.lanes))
                value = v.to(difference, values.element)
                values.store(value, b.sub(i, first))
                size = b.and_(b.bitcast(value, v.of(word)), magnitude)
                before = b.load(tops)
                b.store(b.select(b.icmp_signed(">", size, before), size, before), tops)
                return [b.fsub(new, old), difference]

            written = None
            if values.element == F32:  # then they are the differences

                def written(i: Any) -> Any:
                    return b.gep(values.data, [b.sub(i, first)])

            _add_squares(v, begin, end, sums, [STEP, DIFFERENCE], a.x, body, again=again, last_at=written)
            found, before = _greatest(b, b.load(tops)), b.load(top)
            b.store(b.select(b.icmp_signed(">", found, before), found, before), top)

        in_lanes(b, first, last, loop)
        return b.load(top)

    return function(emit, "aaaaaaiiaa", None)


def _ask(b: Any, vectors: tuple[Vector, ...], at: Any, lanes: int, far: Any) -> None:
    """Prefetch these elements of all that the next motion reads, unless `far` is 0: here the processor computes, and
    memory would wait."""
    with b.if_then(b.icmp_signed("!=", far, I64(0))):
        for one in vectors:
            one.ask(at, lanes)


def _follower(add: bool, assign: bool) -> Any:
    """follow(values, total, x, m, x_hat, first, last, far, sums): x̂ += values, or = values, or neither. The sums' row
    GAP grows. far: as round_follow has it."""

    def emit(
        b: Any,
        values: Vector,
        total: Vector,
        x: Vector,
        m: Vector,
        x_hat: Vector,
        first: Any,
        last: Any,
        far: Any,
        sums: Vector,
    ) -> None:
        def loop(v: Lanes, begin: Any, end: Any) -> None:
            def body(i: Any) -> list[Any]:
                if v.lanes > 1:
                    _ask(b, (total, x, m, x_hat), b.add(i, b.sub(last, first)), v.lanes, far)
                hat = None if assign else x_hat.load(i, v.lanes)
                if add or assign:
                    value = v.to(values.load(b.sub(i, first), v.lanes), x_hat.element)
                    hat = value if hat is None else b.fadd(hat, value)
                    x_hat.store(hat, i)
                return [b.fsub(x.load(i, v.lanes), hat)]

            _add_squares(v, begin, end, sums, [GAP], x, body)

        in_lanes(b, first, last, loop)

    return function(emit, "aaaaaiiia", types.void)


def _greatest(b: Any, values: Any) -> Any:
    """The greatest element of a vector of signed integers, by halves."""
    half = values.type.count // 2
    while half:
        lower, upper = (
            b.shuffle_vector(
                values, values, ir.Constant(ir.VectorType(I32, half), list(range(at, at + half)))
            )
            for at in (0, half)
        )
        values = b.select(b.icmp_signed(">", lower, upper), lower, upper)
        half //= 2
    return b.extract_element(values, I32(0))


def _emit_round(
    b: Any,
    values: Vector,
    total: Vector,
    x: Vector,
    m: Vector,
    x_hat: Vector,
    first: Any,
    last: Any,
    far: Any,
    k0: Any,
    k1: Any,
    slot: Any,
    inverse: Any,
    factors: Vector,
    levels: Vector,
    sums: Vector,
) -> None:
    """round_follow(values, total, x, m, x_hat, first, last, far, k0, k1, slot, inverse, factors, levels, sums):

    levels as rounding.round_levels has them, |values| · inverse < 2^22, and x̂ += level · factors[0]; the sums' row
    GAP grows. last − first: a multiple of 2 · LANES. slot: of the draw of the first element. far: not 0 where the
    vectors lie in no cache. Then as many elements behind these are asked for, of all that the next motion reads: the
    processor computes here, and memory would wait.
    """
    v = Lanes(b, 2 * LANES)
    scale, factor, draws = v.spread(inverse), v.spread(factors.scalar(0)), Draws(b, k0, k1, slot)

    def body(i: Any) -> list[Any]:
        own = b.sub(i, first)
        _ask(b, (total, x, m, x_hat), b.add(i, b.sub(last, first)), v.lanes, far)
        y = b.fadd(b.fmul(values.load(own, v.lanes), scale), v.all(F32, MAGIC))
        sum_ = b.add(b.bitcast(y, v.of(I32)), b.zext(draws.take(), v.of(I32)))
        level = b.sub(b.ashr(sum_, v.all(I32, 16)), v.all(I32, MAGIC_HIGH))
        levels.store(b.trunc(level, v.of(levels.element)), own)
        moved = b.fmul(b.sitofp(level, v.of(x_hat.element)), factor)
        moved = b.fadd(x_hat.load(i, v.lanes), moved)
        x_hat.store(moved, i)
        return [b.fsub(x.load(i, v.lanes), moved)]

    _add_squares(v, first, last, sums, [GAP], x, body, again=True)


move_sgd, move_momentum, move_nesterov, move_adam = (_mover(kind) for kind in range(4))
subtract_sgd, subtract_momentum, subtract_nesterov, subtract_adam = (_taker(k, False) for k in range(4))
again_sgd, again_momentum, again_nesterov, again_adam = (_taker(k, False, True) for k in range(4))
copy_sgd, copy_momentum, copy_nesterov, copy_adam = (_taker(k, True) for k in range(4))
follow, follow_assigned, stay = _follower(True, False), _follower(False, True), _follower(False, False)
round_follow = function(_emit_round, "aaaaaiiiuuifaaa", types.void)
