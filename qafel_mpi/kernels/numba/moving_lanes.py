"""The loops of a server's step as explicit LLVM vectors (numba intrinsics): each vector is read and written once.

What LLVM makes of plain loops takes twice as long here: next to a sum in float64 it works on half as many float32 at
a time. The norms' sums have a lane each of a vector register, in the same order on every processor. The elements
behind the last whole vector go through the same code, one at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils

from qafel_mpi.kernels.numba.rounding_lanes import MAGIC, MAGIC_HIGH, Draws
from qafel_mpi.kernels.numba.vectors import (
    F32,
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


class _Sum:
    """A row of the sums while a loop adds to it, in a register."""

    def __init__(self, v: Lanes, sums: Vector, row: int):
        self.v, self.sums, self.at = v, sums, I64(LANES * row)
        self.kept = cgutils.alloca_once_value(v.b, sums.load(self.at, min(v.lanes, LANES)))

    def add(self, term: Any) -> None:
        b = self.v.b
        if self.v.lanes > LANES:
            nothing = ir.Constant(term.type, ir.Undefined)
            for first in range(0, self.v.lanes, LANES):
                some = ir.Constant(ir.VectorType(I32, LANES), list(range(first, first + LANES)))
                self._add(b.shuffle_vector(term, nothing, some))
        else:
            self._add(term)

    def _add(self, term: Any) -> None:
        b = self.v.b
        b.store(b.fadd(b.load(self.kept), term, flags=("contract",)), self.kept)

    def end(self) -> None:
        self.sums.store(self.v.b.load(self.kept), self.at)


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
            moved = _Sum(v, sums, STEP)
            with cgutils.for_range_slice(b, begin, end, I64(v.lanes), I64) as (i, _):
                old = a.x.load(i, v.lanes)
                new = _moved(v, kind, a, n, i, old)
                a.x.store(new, i)
                moved.add(v.square(new, old))
            moved.end()

        in_lanes(b, first, last, loop)

    return function(emit, "aaaaaiia", types.void)


def _taker(kind: int, assign: bool) -> Any:
    """take(total, x, m, root, numbers, x_hat, first, last, sums, values): x moves, and values = x − x̂ or x, rounded.

    The sums' rows STEP and DIFFERENCE grow. Returns the largest magnitude's bit pattern among the values.
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
            moved, difference = _Sum(v, sums, STEP), _Sum(v, sums, DIFFERENCE)
            with cgutils.for_range_slice(b, begin, end, I64(v.lanes), I64) as (i, _):
                old = a.x.load(i, v.lanes)
                new = _moved(v, kind, a, n, i, old)
                a.x.store(new, i)
                hat = None if assign else x_hat.load(i, v.lanes)
                value = v.to(new if hat is None else b.fsub(new, hat), values.element)
                values.store(value, b.sub(i, first))
                size = b.and_(b.bitcast(value, v.of(word)), magnitude)
                before = b.load(tops)
                b.store(b.select(b.icmp_signed(">", size, before), size, before), tops)
                moved.add(v.square(new, old))
                difference.add(v.square(new, hat))
            moved.end()
            difference.end()
            b.store(_greatest(b, [b.load(top), *_elements(b, b.load(tops))]), top)

        in_lanes(b, first, last, loop)
        return b.load(top)

    return function(emit, "aaaaaaiiaa", None)


def _follower(add: bool, assign: bool) -> Any:
    """follow(values, x, x_hat, first, last, sums): x̂ += values, or = values, or neither. The sums' row GAP grows."""

    def emit(b: Any, values: Vector, x: Vector, x_hat: Vector, first: Any, last: Any, sums: Vector) -> None:
        def loop(v: Lanes, begin: Any, end: Any) -> None:
            gap = _Sum(v, sums, GAP)
            with cgutils.for_range_slice(b, begin, end, I64(v.lanes), I64) as (i, _):
                hat = None if assign else x_hat.load(i, v.lanes)
                if add or assign:
                    value = v.to(values.load(b.sub(i, first), v.lanes), x_hat.element)
                    hat = value if hat is None else b.fadd(hat, value)
                    x_hat.store(hat, i)
                gap.add(v.square(x.load(i, v.lanes), hat))
            gap.end()

        in_lanes(b, first, last, loop)

    return function(emit, "aaaiia", types.void)


def _elements(b: Any, vector: Any) -> list[Any]:
    return [b.extract_element(vector, I32(k)) for k in range(vector.type.count)]


def _greatest(b: Any, values: list[Any]) -> Any:
    while len(values) > 1:
        one, two, *others = values
        values = [*others, b.select(b.icmp_signed(">", one, two), one, two)]
    return values[0]


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
    gap = _Sum(v, sums, GAP)
    with cgutils.for_range_slice(b, first, last, I64(v.lanes), I64) as (i, _):
        own, ahead = b.sub(i, first), b.add(i, b.sub(last, first))
        with b.if_then(b.icmp_signed("!=", far, I64(0))):
            for one in (total, x, m, x_hat):
                one.ask(ahead, v.lanes)
        y = b.fadd(b.fmul(values.load(own, v.lanes), scale), v.all(F32, MAGIC))
        sum_ = b.add(b.bitcast(y, v.of(I32)), b.zext(draws.take(), v.of(I32)))
        level = b.sub(b.ashr(sum_, v.all(I32, 16)), v.all(I32, MAGIC_HIGH))
        levels.store(b.trunc(level, v.of(levels.element)), own)
        moved = b.fmul(b.sitofp(level, v.of(x_hat.element)), factor)
        moved = b.fadd(x_hat.load(i, v.lanes), moved)
        x_hat.store(moved, i)
        gap.add(v.square(x.load(i, v.lanes), moved))
    gap.end()


move_sgd, move_momentum, move_nesterov, move_adam = (_mover(kind) for kind in range(4))
subtract_sgd, subtract_momentum, subtract_nesterov, subtract_adam = (_taker(k, False) for k in range(4))
copy_sgd, copy_momentum, copy_nesterov, copy_adam = (_taker(k, True) for k in range(4))
follow, follow_assigned, stay = _follower(True, False), _follower(False, True), _follower(False, False)
round_follow = function(_emit_round, "aaaaaiiiuuifaaa", types.void)
