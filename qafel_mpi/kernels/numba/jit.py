"""numba with the few things that it lacks: bit casts, 32-bit arithmetic, loads and stores at any byte."""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys
from numba.extending import intrinsic as _typed_intrinsic
from numba.np.arrayobj import populate_array

# Its stubs know neither no_cpython_wrapper nor that an intrinsic loses its first argument.
njit: Any = numba.njit
intrinsic: Any = _typed_intrinsic
_OPTIONS = {"nogil": True, "boundscheck": False, "error_model": "numpy", "no_cfunc_wrapper": True}
# numba keeps compiled functions on disk and looks for changes in the file of the function that Python calls, not in
# those of its helpers and constants. So what it keeps is named after all of them: an upgrade never runs old code.
_SOURCES = hashlib.sha256(
    b"".join(p.read_bytes() for p in sorted(Path(__file__).parents[1].rglob("[!.]*.py")))
)
_BYTE, _WORD = ir.IntType(8), ir.IntType(32)


class _Kept(FunctionCache):
    """numba's cache, where a disk that is full or forbidden costs the time of compiling, not the run."""

    def load_overload(self, *arguments: Any) -> Any:
        try:
            return self._loaded(*arguments)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._say(error)
            return None

    def _loaded(self, signature: Any, context: Any) -> Any:
        """As numba's own, without its registries of what it can compile, which take a quarter of a second to load.

        A compiled function needs only the runtime that manages memory; who compiles loads the rest.
        """
        rtsys.initialize(context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(signature, context)

    def save_overload(self, *arguments: Any) -> None:
        try:
            super().save_overload(*arguments)
        except OSError as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        if not _said:
            _said.append(self.cache_path)
            why = getattr(error, "strerror", None) or error
            note = f"qafel-mpi: compiled kernels can't be kept in {self.cache_path} ({why}); every run compiles them"
            print(note, file=sys.stderr, flush=True)


_said: list[str] = []  # once a process


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """For functions that Python calls: compiled once, and kept on disk where there is a folder for it.

    options: numba's, beside ours or in their place. Without a function it is a decorator, which takes more of them.
    """
    if function is None:
        return partial(jit, **options)
    function.__qualname__ += f"-{_SOURCES.hexdigest()[:12]}"  # a part of the file's name
    made = njit(**_OPTIONS | options)(function)
    with suppress(RuntimeError):  # neither the package's folder nor the user's cache can be written
        made._cache = _Kept(function)  # as its enable_caching does, with a cache that fails nothing
    return made


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions that jitted functions alone call, into which they are compiled."""
    return njit(no_cpython_wrapper=True, **_OPTIONS)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """A helper whose code stands in its caller for sure: a call hands over seven numbers an array, on the stack."""
    return njit(no_cpython_wrapper=True, forceinline=True, **_OPTIONS)(function)


def _operation(emit: Callable[..., Any], result: Any, *arguments: Any) -> Any:
    """A function of scalars, of the given types, that is one LLVM instruction."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, *args)

    if len(arguments) == 1:

        @intrinsic
        def unary(typingctx, a):
            return result(*arguments), codegen

        return unary

    @intrinsic
    def binary(typingctx, a, b):
        return result(*arguments), codegen

    return binary


def _lrint(builder: Any, value: Any) -> Any:
    kind = ir.FunctionType(_WORD, [ir.FloatType()])
    return builder.call(
        builder.module.declare_intrinsic("llvm.lrint", [_WORD, ir.FloatType()], kind), [value]
    )


bits_of = _operation(lambda b, v: b.bitcast(v, _WORD), types.int32, types.float32)
float_of = _operation(lambda b, v: b.bitcast(v, ir.FloatType()), types.float32, types.int32)
double_of = _operation(lambda b, v: b.bitcast(v, ir.DoubleType()), types.float64, types.uint64)
nearest = _operation(_lrint, types.int32, types.float32)  # rint to int32: ties to even, one instruction
# numba's own sum and product of two uint32 are uint64, which makes vectors half as wide.
add32 = _operation(lambda b, x, y: b.add(x, y), types.uint32, types.uint32, types.uint32)
# The greater one as unsigned numbers, of int32: numba's max of two uint32 is slower for the same reason.
umax32 = _operation(
    lambda b, x, y: b.select(b.icmp_unsigned(">", x, y), x, y), types.int32, types.int32, types.int32
)
mul32 = _operation(lambda b, x, y: b.mul(x, y), types.uint32, types.uint32, types.uint32)


@intrinsic
def fma(typingctx, a, b, c):
    """a · b + c of floats of one type, with one rounding: one instruction where the processor has it."""

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), codegen


def _pointer(context: Any, builder: Any, signature: Any, args: Any, kind: Any) -> Any:
    array = context.make_array(signature.args[0])(context, builder, args[0])
    byte = builder.gep(builder.bitcast(array.data, _BYTE.as_pointer()), [args[1]])
    return builder.bitcast(byte, kind.as_pointer())


def _loader(bits: int, result: Any) -> Any:
    @intrinsic
    def load(typingctx, array, at):
        def codegen(context, builder, signature, args):
            return builder.load(_pointer(context, builder, signature, args, ir.IntType(bits)), align=1)

        return result(array, types.intp), codegen

    return load


# load(array, at): the value whose bytes begin at byte `at` of the array, aligned or not.
load8, load16 = _loader(8, types.uint8), _loader(16, types.uint16)
load32, load64 = _loader(32, types.int32), _loader(64, types.uint64)


@intrinsic
def store(typingctx, array, at, value):
    """The bytes of value to byte `at` of the array, aligned or not."""

    def codegen(context, builder, signature, args):
        builder.store(args[2], _pointer(context, builder, signature, args, args[2].type), align=1)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), codegen


@intrinsic
def prefetch(typingctx, array, at):
    """Ask for the cache line of byte `at` of the array, which may lie behind its end.

    Processors that read ahead stop at the end of a page of 4 kB: the first line of the next one makes them go on.
    """

    def codegen(context, builder, signature, args):
        byte = _pointer(context, builder, signature, args, _BYTE)
        kind = ir.FunctionType(ir.VoidType(), [byte.type, _WORD, _WORD, _WORD])
        call = builder.module.declare_intrinsic("llvm.prefetch", [byte.type], kind)
        read, keep, data = _WORD(0), _WORD(3), _WORD(1)
        builder.call(call, [byte, read, keep, data])
        return context.get_dummy_value()

    return types.void(array, types.intp), codegen


@intrinsic
def part(typingctx, array, begin, end):
    """array[begin:end] of a contiguous vector, 0 <= begin <= end <= its size, which must outlive it.

    numba's own slices count references with atomic instructions, some hundred cycles a bucket.
    """
    result = types.Array(array.dtype, 1, "C")

    def codegen(context, builder, signature, args):
        whole = context.make_array(signature.args[0])(context, builder, args[0])
        made = context.make_array(result)(context, builder)
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(array.dtype)))
        populate_array(
            made,
            data=builder.gep(whole.data, [args[1]]),
            shape=[builder.sub(args[2], args[1])],
            strides=[size],
            itemsize=size,
            meminfo=None,
        )
        return made._getvalue()

    return result(array, types.intp, types.intp), codegen


@inlined
def uncounted(array):
    """The contiguous vector, which must outlive this, as `part` gives it: calls with it count no references."""
    return part(array, 0, array.size)
