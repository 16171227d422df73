"""LLVM code for vectors of numbers inside numba functions: what loops of explicit vectors are written with."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import binding, ir  # type: ignore[import-untyped]
from numba import config, types
from numba.core import cgutils

from qafel_mpi.kernels.numba.jit import intrinsic

LANES = 16
_config: Any = config  # its stubs know no variable
I8, I16, I32, I64 = (ir.IntType(n) for n in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
_WORDS: dict[Any, Any] = {types.float32: types.int32, types.float64: types.int64}


@cache
def has(*features: str) -> bool:
    """Whether this processor has all of these, by LLVM's names, and kernels may use them."""
    if _config.CPU_NAME not in (None, "host") or _config.CPU_FEATURES:  # fewer than this processor has
        return False
    host = binding.get_host_cpu_features()
    return all(host.get(feature) for feature in features) and bool(
        _config.ENABLE_AVX or "avx512f" not in features
    )


class Lanes:
    """LLVM code for vectors of so many elements."""

    def __init__(self, b: Any, lanes: int):
        self.b, self.lanes = b, lanes

    def of(self, element: Any) -> Any:
        return ir.VectorType(element, self.lanes)

    def all(self, element: Any, value: float) -> Any:
        """A vector of one constant."""
        return ir.Constant(self.of(element), [value] * self.lanes)

    def spread(self, scalar: Any) -> Any:
        """A vector of one value."""
        nothing = ir.Constant(self.of(scalar.type), ir.Undefined)
        one = self.b.insert_element(nothing, scalar, I32(0))
        return self.b.shuffle_vector(one, nothing, self.all(I32, 0))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        name = f"llvm.fma.v{self.lanes}{x.type.element.intrinsic_name}"
        kind = ir.FunctionType(x.type, [x.type] * 3)
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), [x, y, z])

    def to(self, x: Any, element: Any) -> Any:
        """x rounded to floats of that type."""
        if x.type.element == element:
            return x
        return (self.b.fpext if element == F64 else self.b.fptrunc)(x, self.of(element))


class Vector:
    """An argument of an intrinsic: a vector of numbers."""

    def __init__(self, context: Any, b: Any, kind: Any, value: Any):
        self.b, self.element = b, context.get_data_type(kind.dtype)
        self.data = context.make_array(kind)(context, b, value).data
        self.align = context.get_abi_sizeof(self.element)

    def scalar(self, at: int) -> Any:
        return self.b.load(self.b.gep(self.data, [I64(at)]))

    def _pointer(self, at: Any, lanes: int) -> Any:
        return self.b.bitcast(self.b.gep(self.data, [at]), ir.VectorType(self.element, lanes).as_pointer())

    def load(self, at: Any, lanes: int) -> Any:
        return self.b.load(self._pointer(at, lanes), align=self.align)

    def ask(self, at: Any, lanes: int) -> None:
        """Prefetch these elements, which may lie behind the last one."""
        size = self.align * lanes
        for k in range(0, size, 64):
            byte = self.b.gep(self.b.bitcast(self.b.gep(self.data, [at]), I8.as_pointer()), [I64(k)])
            kind = ir.FunctionType(ir.VoidType(), [byte.type, I32, I32, I32])
            call = self.b.module.declare_intrinsic("llvm.prefetch", [byte.type], kind)
            self.b.call(call, [byte, I32(0), I32(3), I32(1)])  # to read, and to keep

    def store(self, value: Any, at: Any) -> None:
        self.b.store(value, self._pointer(at, value.type.count), align=self.align)


def function(emit: Callable[..., Any], letters: str, result: Any) -> Any:
    """A numba function of these arguments (a: array, i: index, u: uint32, f: float32, s: a scalar of its own type).

    emit(builder, *arguments) writes the LLVM code, and returns its result; of type None: an integer as wide as the
    last array's floats.
    """
    given = {"i": types.intp, "u": types.uint32, "f": types.float32}

    def build(typingctx: Any, *kinds: Any) -> Any:
        wanted = [given.get(letter, kind) for letter, kind in zip(letters, kinds, strict=True)]

        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            made = [
                Vector(context, b, kind, value) if letter == "a" else value
                for letter, kind, value in zip(letters, signature.args, args, strict=True)
            ]
            found = emit(b, *made)
            return context.get_dummy_value() if found is None else found

        return (result or _WORDS[kinds[-1].dtype])(*wanted), codegen

    # numba takes a function's arguments one by one, by the names in its signature.
    names = ["typingctx", *(f"{letter}{k}" for k, letter in enumerate(letters))]
    positional = inspect.Parameter.POSITIONAL_OR_KEYWORD
    build.__signature__ = inspect.Signature([inspect.Parameter(n, positional) for n in names])  # type: ignore[attr-defined]
    return intrinsic(build)


def in_lanes(b: Any, first: Any, last: Any, loop: Callable[[Lanes, Any, Any], None]) -> None:
    """Elements first..last-1: loop(lanes, first, last) for all whole vectors, and again for what is left."""
    whole = b.add(first, b.and_(b.sub(last, first), I64(-LANES)))
    loop(Lanes(b, LANES), first, whole)
    with b.if_then(b.icmp_signed("<", whole, last), likely=False):
        loop(Lanes(b, 1), whole, last)
