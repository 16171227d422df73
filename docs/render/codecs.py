"""Blocks of docs/results.md: what codecs cost."""

from __future__ import annotations

import math
from typing import Any

from docs.render.pages import table
from docs.render.records import (
    NOTHING,
    content,
    digits,
    first,
    measured,
    not_measured,
    one,
    origin,
    rows,
    span,
    time,
    values,
)

OPERATIONS = {
    "encode": "encode",
    "decode_accumulate": "decode and accumulate",
    "hidden_step": "hidden-state step",
}
SIZES = (29_282, 1_000_000, 11_000_000)


def passes(row: dict[str, Any]) -> list[float]:
    """Time over that of the memory pass, a launch each."""
    return [1 / value for value in values(row, "ratio")]


def qsgd() -> str:
    """The default codec by vector length."""
    lines = []
    for d in SIZES:
        found = [one("codec", operation=operation, d=d) for operation in OPERATIONS]
        cells = [f"{span(values(row, 'median_us'), time)}; {span(passes(row))}×" for row in found]
        pays = values(one("codec", operation="encode_zstd", d=d), "pays_below_mbit_per_s")
        lines.append((f"{d:,}", *cells, f"{span(pays, lambda v: f'{v:,.0f}')} Mbit/s"))
    header = ("elements", *OPERATIONS.values(), "zstd pays below")
    return f"{table(header, lines, right=(0, 1, 2, 3, 4))}\n\n{origin('codec')}"


def variants() -> str:
    """Other widths, two threads, and identity: over the memory pass."""
    columns: list[tuple[str, str, dict[str, object]]] = [
        ("2 bits", "codec-widths", {"bits": 2}),
        ("3 bits", "codec-widths", {"bits": 3}),
        ("8 bits", "codec-widths", {"bits": 8}),
        ("4 bits, 2 threads", "codec-threads", {}),
        ("identity", "codec-identity", {}),
    ]
    lines = []
    for operation, words in OPERATIONS.items():
        for d in SIZES:
            cells = []
            for _, name, parameters in columns:
                found = rows(name, operation=operation, d=d, **parameters)
                cells.append(span(passes(found[0])) if found else NOTHING)
            lines.append((words, f"{d:,}", *cells))
    header = ("time over a memory pass", "elements", *(words for words, _, _ in columns))
    names = origin("codec-widths", "codec-threads", "codec-identity")
    return f"{table(header, lines, right=range(1, 7))}\n\n{names}"


_OTHERS = (("qsgd", (1, 2, 4)), ("eden", (1, 2, 4)), ("fp4", (4,)), ("lattice", (4,)))
_DECODE = ("decode_accumulate", "decode_near")
_TARGETS = {
    "encode": (20, 3),
    "decode_accumulate": (15, 2.5),
}  # of eden: µs for a short vector, passes for a long one
_AS_FAST = 1.05  # times qsgd's time: as fast


def others() -> str:
    """eden, fp4 and lattice beside qsgd in one run: times, and over the memory pass."""
    lines = []
    for codec, widths in _OTHERS:
        for bits in widths:
            for d in (SIZES[0], SIZES[-1]):
                found = {
                    row["parameters"]["operation"]: row
                    for row in rows("codec-others", codec=codec, bits=bits, d=d)
                }
                decode = next(name for name in _DECODE if name in found)
                cells = [
                    _time_and_passes(found.get(name))
                    for name in ("encode", decode, "hidden_step", "rotated_sum")
                ]
                name = codec if codec == "fp4" else f"{codec}, {bits} bit{'s' * (bits > 1)}"
                lines.append((name, f"{d:,}", *cells))
    header = ("", "elements", "encode", "decode and accumulate", "hidden-state step", "sum, shared rotation")
    shown = f"{table(header, lines, right=range(1, 6))}\n\n{_targets()}"
    return f"{shown}\n\n{origin('codec-others')}"


def _targets() -> str:
    parts = []
    for operation, (us, most) in _TARGETS.items():
        short, long = (
            [one("codec-others", codec="eden", bits=b, d=d, operation=operation) for b in (1, 2, 4)]
            for d in (SIZES[0], SIZES[-1])
        )
        times = sum(first(row, "median_us") <= us for row in short)
        ratios = sum(passes(row)[0] <= most for row in long)
        parts.append(
            f"{OPERATIONS[operation]} at most {us} µs for {SIZES[0]:,} elements, met at {times} of 3 widths, and "
            f"{most:g} passes for {SIZES[-1]:,}, met at {ratios} of 3"
        )
    return f"Targets for eden: {'; '.join(parts)}; {_rotated_sums()}."


def _rotated_sums() -> str:
    """The sum by a shared rotation against qsgd's decoding, the medians of one run."""
    cells, met = [], 0
    for d in (SIZES[0], SIZES[-1]):
        over = {}
        for bits in (1, 2, 4):
            ours = first(
                one("codec-others", codec="eden", bits=bits, d=d, operation="rotated_sum"), "median_us"
            )
            theirs = one("codec-others", codec="qsgd", bits=bits, d=d, operation="decode_accumulate")
            over[bits] = ours / first(theirs, "median_us")
        met += sum(ratio <= _AS_FAST for ratio in over.values())
        cells.append(f"{', '.join(digits(ratio) for ratio in over.values())} for {d:,} elements")
    return (
        f"the sum by a shared rotation at most {_AS_FAST:g} times as long as qsgd's decode and accumulate at the "
        f"same bits, met at {met} of 6: at 1, 2 and 4 bits {' and '.join(cells)}"
    )


def _time_and_passes(row: dict[str, Any] | None) -> str:
    return NOTHING if row is None else f"{span(values(row, 'median_us'), time)}; {span(passes(row))}×"


def sums() -> str:
    """Sums of whole numbers (fixed) against sums of floats (qsgd), and from how many uploads a step they pay."""
    if not measured("codec-sums"):
        return not_measured("codec")
    lines = []
    for bits in (2, 4, 8):
        for d in (SIZES[0], SIZES[-1]):
            against = one(
                "codec-sums", codec="fixed", bits=bits, d=d, operation="integer_sum", against="qsgd"
            )
            scale = one("codec-sums", codec="fixed", bits=bits, d=d, operation="scale_sum")
            ours, theirs, once = (
                first(against, "median_us"), first(against, "reference_median_us"), first(scale, "median_us")
            )  # fmt: skip
            pays = f"{math.ceil(once / (theirs - ours))} uploads" if ours < theirs else "never"
            lines.append(
                (
                    f"{bits} bits",
                    f"{d:,}",
                    *(time(us) for us in (theirs, ours, once)),
                    digits(ours / theirs),
                    pays,
                )
            )
    header = (
        *("", "elements", "qsgd, decode and accumulate", "fixed, integer sum", "fixed, once a step"),
        *("sum, fixed / qsgd", "pays from"),
    )
    return f"{table(header, lines, right=range(1, 7))}\n\n{origin('codec-sums')}"


LIBRARIES = ("numpy", "torch", "bitsandbytes", "torchao")


def peers() -> str:
    """Other libraries' time over ours."""
    found = [row for row in content("codec-peers") if "against" in row["parameters"]]
    ratios = {_what(row): first(row, "ratio") for row in found}
    points = dict.fromkeys(what[:4] for what in ratios)
    lines = []
    # "qsgd" before "affine", "encode" before "decode_accumulate"
    for d, codec, bits, operation in sorted(
        points, key=lambda p: (p[0], p[1] != "qsgd", p[2], p[3] != "encode")
    ):
        cells = [ratios.get((d, codec, bits, operation, library)) for library in LIBRARIES]
        words = f"{codec}, {bits} bits, {OPERATIONS[operation]}"
        lines.append((f"{d:,}", words, *(NOTHING if cell is None else digits(cell) for cell in cells)))
    header = ("elements", "", *LIBRARIES)
    return f"{table(header, lines, right=(0, 2, 3, 4, 5))}\n\n{origin('codec-peers')}"


def _what(row: dict[str, Any]) -> tuple[int, str, int, str, str]:
    p = row["parameters"]
    return p["d"], p["codec"], p["bits"], p["operation"], p["against"]


def large() -> str:
    """The default codec at 110 million elements, and torch's time over ours."""
    lines = []
    for operation, words in OPERATIONS.items():
        alone = one("codec-large", operation=operation, against=None)
        torch = rows("codec-large", operation=operation, against="torch")
        over = digits(first(torch[0], "ratio")) if torch else NOTHING
        lines.append((words, time(first(alone, "median_us")), f"{digits(passes(alone)[0])}×", over))
    header = (f"{alone['parameters']['d']:,} elements", "time", "over a memory pass", "torch / ours")
    return f"{table(header, lines, right=(1, 2, 3))}\n\n{origin('codec-large')}"


def zstd_saves() -> str:
    """A sentence of docs/codecs.md."""
    found = one("codec", operation="encode_zstd", d=SIZES[1])["launches"][0]
    encode = one("codec", operation="encode", d=SIZES[1])["launches"][0]
    saved = 1 - found["coded_bytes"] / found["payload_bytes"]
    return (
        f"On {SIZES[1]:,} Gaussian elements at 4 bits zstd saves {saved:.0%} of the payload. Encoding with it takes "
        f"{digits(found['median_us'] / encode['median_us'])} times as long as without.\n\n"
        f"{origin('codec')}"
    )


def neighbour() -> str:
    """A shared core, and what zstd makes of the payload."""
    lines = [
        (words, time(first(one("codec-neighbour", operation=operation), "median_us")))
        for operation, words in OPERATIONS.items()
    ]
    zstd = one("codec", operation="encode_zstd", d=SIZES[0])["launches"][0]
    coded, payload = (f"{zstd[name] / 1e3:.1f} kB" for name in ("coded_bytes", "payload_bytes"))
    text = (
        f"At {SIZES[0]:,} elements zstd shortens the payload from {payload} to {coded}. The entropy of the codes is "
        f"{digits(zstd['entropy_bits'])} bits an element, scales included."
    )
    header = (f"{SIZES[0]:,} elements, a busy process on the same core", "median")
    return f"{table(header, lines, right=(1,))}\n\n{text}\n\n{origin('codec-neighbour', 'codec')}"
