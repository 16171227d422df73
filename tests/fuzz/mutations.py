"""Bytes that were whole, changed: what disks, networks and other people's programs do to them."""

from __future__ import annotations

from hypothesis import strategies as st

INTERESTING = [
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x00" * 8,
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"1e999",
    b"{",
    b"\n",
]
Change = tuple[str, float, bytes, float]


def changes(most: int = 4) -> st.SearchStrategy[list[Change]]:
    """A few changes of bytes: what is done, where (a share of the length), with what, over which length (a share)."""
    kinds = st.sampled_from(["flip", "flip", "overwrite", "overwrite", "insert", "delete", "cut", "repeat"])
    data = st.binary(min_size=1, max_size=9) | st.sampled_from(INTERESTING)
    return st.lists(st.tuples(kinds, st.floats(0, 1), data, st.floats(0, 1)), min_size=1, max_size=most)


def changed(whole: bytes, done: list[Change]) -> bytes:
    """The bytes with these changes, one after the other.

    >>> changed(b"abcdef", [("overwrite", 0.5, b"xy", 0.0), ("cut", 0.9, b"", 0.0)])
    b'abcxy'
    """
    data = bytearray(whole)
    for kind, place, new, share in done:
        at = min(len(data), int(place * len(data)))
        end = min(len(data), at + 1 + int(share * share * len(data)))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << (new[0] % 8)
        elif kind == "overwrite":
            data[at : at + len(new)] = new[: max(0, len(data) - at)]
        elif kind == "insert":
            data[at:at] = new
        elif kind == "delete":
            del data[at:end]
        elif kind == "cut":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at:end][: 1 << 16]
    return bytes(data)
