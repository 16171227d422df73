"""What the Triton kernels share: rounding, wide loads and stores of a segment, packed codes."""

import triton
import triton.language as tl

from qafel_mpi.kernels import reference

LIFT, DROP, TINY = (tl.constexpr(float(v)) for v in (reference.LIFT, reference.DROP, reference.TINY))
MAGNITUDE, INF_BITS = tl.constexpr(0x7FFFFFFF), tl.constexpr(0x7F800000)
# Adding these to |y| < 2^22, or 2^51, leaves rint(y) in the low bits of the float's pattern.
_MAGIC, _MAGIC_BITS = tl.constexpr(1.5 * 2.0**23), tl.constexpr(0x4B400000)
_MAGIC64 = tl.constexpr(1.5 * 2.0**52)


@triton.jit
def nearest(y):
    """rint(y), int32. y: float32 below 2^22."""
    return (y + _MAGIC).to(tl.int32, bitcast=True) - _MAGIC_BITS


@triton.jit
def nearest64(y):
    """rint(y), int32. y: float64 within int32's range."""
    return (y + _MAGIC64).to(tl.int64, bitcast=True).to(tl.int32)


@triton.jit
def load_first(source, p, n, ALIGN: tl.constexpr):
    """source[p] where p < n, else 0. p: (BLOCK,) from 0 on.

    Accesses of ALIGN elements at once, but for the last n % ALIGN: `source` is that much aligned, n need not be. A
    mask is as wide as what is known of its bound; tl.multiple_of(n, ALIGN) would promise it of every n.
    """
    whole = n // ALIGN * ALIGN
    v = tl.load(source + p, mask=p < whole, other=0)
    if whole < n:
        v = tl.where(p < whole, v, tl.load(source + p, mask=(p >= whole) & (p < n), other=0))
    return v


@triton.jit
def store_first(target, p, n, value, ALIGN: tl.constexpr):
    """target[p] = value where p < n, as load_first."""
    whole = n // ALIGN * ALIGN
    tl.store(target + p, value, mask=p < whole)
    if whole < n:
        tl.store(target + p, value, mask=(p >= whole) & (p < n))


@triton.jit
def store_codes(even, odd, out, bytes_, BITS: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    """`bytes_` bytes of codes to out, aligned to ALIGN. even, odd: (BLOCK/2,) codes of the slots 2p and 2p + 1."""
    if BITS == 8:
        codes = tl.reshape(tl.join(even, odd), (BLOCK,)).to(tl.uint8)
        store_first(out, tl.arange(0, BLOCK), bytes_, codes, ALIGN)
    else:
        pair = even | (odd << BITS)
        if BITS == 4:
            store_first(out, tl.arange(0, BLOCK // 2), bytes_, pair.to(tl.uint8), ALIGN)
        else:
            four = tl.reshape(pair.to(tl.int64), (BLOCK // 8, 4))
            word = tl.sum(four << (2 * BITS * tl.arange(0, 4))[None, :].to(tl.int64), axis=1)
            byte = tl.arange(0, 8)[None, :]
            at = tl.arange(0, BLOCK // 8)[:, None] * BITS + byte
            value = (word[:, None] >> (8 * byte).to(tl.int64)) & 255
            tl.store(out + at, value.to(tl.uint8), mask=(byte < BITS) & (at < bytes_))


@triton.jit
def load_codes(source, n, BITS: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr):
    """The codes of n slots, (BLOCK,) int32. ALIGN: of source, in bytes."""
    if BITS == 8:
        return load_first(source, tl.arange(0, BLOCK), n, ALIGN).to(tl.int32)
    elif BITS == 4:
        pair = load_first(source, tl.arange(0, BLOCK // 2), (n + 1) // 2, ALIGN).to(tl.int32)
        return tl.reshape(tl.join(pair & 15, pair >> 4), (BLOCK,))
    else:
        p = tl.arange(0, BLOCK)
        at, shift, valid = source + (p * BITS >> 3), p * BITS & 7, p < n
        word = tl.load(at, mask=valid, other=0).to(tl.int32)
        if BITS != 1 and BITS != 2:  # a code may cross into the next byte
            word |= tl.load(at + 1, mask=valid & (shift + BITS > 8), other=0).to(tl.int32) << 8
        return (word >> shift) & ((1 << BITS) - 1)
