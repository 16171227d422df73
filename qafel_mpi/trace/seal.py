"""The seal of a trace file: checksums of all its bytes, in a dataset of its own at the file's end.

The tables' rows have a CRC-32C for each piece of PIECE_BYTES; everything else (attributes, descriptions of tables)
has one together. The latter is compared before libhdf5 sees the file, for it can crash on damaged descriptions: the
seal is found without libhdf5, by its last bytes. Rows are compared when they are read. HDF5's own checksums
(fletcher32) would need tables in chunks, and of a file that was cut short salvage.py could read no rows then.

/seal, bytes: JSON padded with spaces, then 20 bytes: "QFSEAL1\\n", the JSON's length (u8) and its CRC-32C (u4).
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from fastcrc import crc32

from qafel_mpi.trace.disk import hdf5
from qafel_mpi.trace.shards import TraceError

PIECE_BYTES = 8 << 20
NAME = "seal"
_MAGIC = b"QFSEAL1\n"
_TAIL = struct.Struct("<8sQI")
_SEARCH_BYTES = 1 << 16  # HDF5 may put some of its own descriptions behind the seal


@dataclass(frozen=True)
class Region:
    """The bytes of one dataset. checks: the CRC-32C of each PIECE_BYTES of them."""

    name: str
    begin: int
    size: int
    checks: tuple[int, ...]


@dataclass
class Seal:
    """What a file's bytes were when it was written."""

    end: int  # the file's size
    rest: int  # CRC-32C of all bytes that are no dataset's
    regions: dict[str, Region]
    _good: set[tuple[str, int]] = field(default_factory=set)  # pieces that were compared

    @classmethod
    def of(cls, path: Path) -> Seal | None:
        """None where none is found: the file is older, was cut short, or its seal is damaged.

        Raises TraceError where it is found and can't be read.
        """
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _SEARCH_BYTES))
            data = file.read()
            at = data.rfind(_MAGIC)
            if at < 0 or at + _TAIL.size > len(data):
                return None
            _, length, check = _TAIL.unpack_from(data, at)
            begin = size - len(data) + at - length
            file.seek(max(0, begin))
            text = file.read(length) if begin >= 0 else b""
        try:
            if crc32.iscsi(text) != check:
                raise ValueError("its own checksum is wrong")
            return cls._of(json.loads(text), size)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise TraceError(
                f"{path}: damaged: its seal can't be read ({error}); take another copy"
            ) from error

    @classmethod
    def _of(cls, found: dict[str, Any], size: int) -> Seal:
        """From its JSON. Raises ValueError, KeyError, TypeError where that describes no file of this size."""
        regions = [Region(str(n), b, s, tuple(c)) for n, b, s, c in found["regions"]]
        for r in regions:
            if not (0 <= r.begin <= r.begin + r.size <= size) or len(r.checks) not in (0, len([*_spans(r)])):
                raise ValueError(f"/{r.name} does not lie in the file")
        return cls(int(found["end"]), int(found["rest"]), {region.name: region for region in regions})

    def check_rest(self, path: Path) -> None:
        """Compare what is no dataset's. Raises TraceError."""
        with open(path, "rb") as file:
            if _crc_of(file, _gaps(list(self.regions.values()), self.end)) != self.rest:
                raise TraceError(
                    f"{path}: damaged: its attributes or the descriptions of its tables are not those that were "
                    "written (wrong checksum); take another copy, or, if you have edited the file yourself, "
                    f"`qafel-mpi seal {path}`"
                )

    def check_all(self, path: Path) -> None:
        """Compare every byte of the file. Raises TraceError."""
        self.check_rest(path)
        for region in self.regions.values():
            self.check_bytes(path, region.name, 0, region.size)

    def check_bytes(self, path: Path, name: str, begin: int, end: int) -> None:
        """Compare the pieces that hold these bytes of a dataset. Raises TraceError naming the piece."""
        if (region := self.regions.get(name)) is None:
            return
        first, last = begin // PIECE_BYTES, min(-(-end // PIECE_BYTES), len(region.checks))
        wanted = [piece for piece in range(first, last) if (name, piece) not in self._good]
        if not wanted:
            return
        with open(path, "rb") as file:
            for piece in wanted:
                low = piece * PIECE_BYTES
                high = min(low + PIECE_BYTES, region.size)
                if _crc_of(file, [(region.begin + low, region.begin + high)]) != region.checks[piece]:
                    raise TraceError(
                        f"{path}: damaged: /{name}, bytes {low:,} to {high:,}: wrong checksum; take another copy"
                    )
                self._good.add((name, piece))


def write_seal(path: Path) -> None:
    """Seal a trace file that is complete and closed; an older seal is replaced. It is on the disk then.

    Raises OSError.
    """
    with hdf5(path, new=False) as file:
        if NAME in file:
            del file[NAME]
        longest = _text(path.stat().st_size * 2, 2**32 - 1, [*_regions(file, checks=2**32 - 1)])
        file.create_dataset(NAME, data=np.zeros(2 * len(longest) + _TAIL.size, np.uint8))
    with h5py.File(path, "r", locking=False) as file:
        regions = [*_regions(file)]
        own = next(region for region in _all_regions(file) if region.name == NAME)
    end = path.stat().st_size
    with open(path, "r+b") as raw:
        sealed = [
            replace(region, checks=tuple(_crc_of(raw, [span]) for span in _spans(region)))
            for region in regions
        ]
        rest = _crc_of(raw, _gaps([*sealed, own], end))
        text = _text(end, rest, [*sealed, own]).ljust(own.size - _TAIL.size)
        raw.seek(own.begin)
        raw.write(text + _TAIL.pack(_MAGIC, len(text), crc32.iscsi(text)))
        raw.flush()
        os.fsync(raw.fileno())


def seal_anew(path: Path) -> None:
    """`write_seal` on a copy, which takes the file's place when it is complete. Raises OSError."""
    path = path.resolve()
    copy = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.part")
    try:
        shutil.copy(path, copy)
        write_seal(copy)
        os.replace(copy, path)
    finally:
        with suppress(OSError):
            copy.unlink(missing_ok=True)


def _text(end: int, rest: int, regions: list[Region]) -> bytes:
    content = {"end": end, "rest": rest, "regions": [[r.name, r.begin, r.size, r.checks] for r in regions]}
    return json.dumps(content).encode()


def _all_regions(file: h5py.File) -> list[Region]:
    """Every dataset that has bytes in the file, without checksums."""
    found: list[Region] = []

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and (offset := item.id.get_offset()) is not None:
            found.append(Region(name, offset, item.id.get_storage_size(), ()))

    file.visititems(note)
    return found


def _regions(file: h5py.File, checks: int | None = None) -> Iterator[Region]:
    """All but the seal. checks: a checksum for each of their pieces."""
    for region in _all_regions(file):
        if region.name != NAME:
            pieces = () if checks is None else (checks,) * len([*_spans(region)])
            yield replace(region, checks=pieces)


def _spans(region: Region) -> Iterator[tuple[int, int]]:
    end = region.begin + region.size
    return ((at, min(at + PIECE_BYTES, end)) for at in range(region.begin, end, PIECE_BYTES))


def _gaps(regions: list[Region], end: int) -> list[tuple[int, int]]:
    """The bytes from 0 to end that lie in no region, as (begin, end)."""
    gaps, at = [], 0
    for region in sorted(regions, key=lambda r: r.begin):
        gaps.append((at, region.begin))
        at = region.begin + region.size
    return [*gaps, (at, end)]


def _crc_of(file: BinaryIO, spans: list[tuple[int, int]]) -> int:
    crc = 0
    for begin, end in spans:
        file.seek(begin)
        while begin < end:
            data = file.read(min(PIECE_BYTES, end - begin))
            if not data:  # shorter than it was: no checksum is right then
                return -1
            crc = crc32.iscsi(data, crc)
            begin += len(data)
    return crc
