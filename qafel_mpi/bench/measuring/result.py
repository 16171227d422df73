"""Results of benchmarks: rows of samples, and the files that hold them (JSON and HDF5), both with every sample."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qafel_mpi.bench.measuring.timing import Samples, pair
from qafel_mpi.outputs import whole

VERSION = 1
# References that are a limit of the machine: a time can come near them, and is shown as a multiple of them.
MEMORY_PASS = "a memory pass with the same reads and writes"
DEVICE_COPY = "a copy on the device that moves as many bytes"
_LIMITS = (MEMORY_PASS, DEVICE_COPY)
_SERIES = ("values", "warmups", "reference_values", "reference_warmups")


class ResultError(Exception):
    """A result file that can't be read, or two that can't be compared; the message names the file."""


@dataclass(frozen=True)
class Row:
    """One line of a benchmark: what was measured, its samples, and those of the reference sampled in turns."""

    bench: str
    parameters: Mapping[str, Any]  # operation, bytes, codec, ...: what tells this row from others
    ours: Samples
    reference: Samples | None = None
    reference_name: str = ""
    bytes_moved: float | None = None  # an operation's
    wrong: int | None = (
        None  # bytes, elements or messages that were not what they should be; None: not looked at
    )
    reduction: str = "one process"  # which reduction over ranks a sample is
    # Further columns, each with its unit in its name; NAME_ci95 is the interval of NAME.
    derived: Mapping[str, float | list[float]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[Any, ...]:
        """What pairs rows of two files."""
        return (self.bench, *sorted((k, str(v)) for k, v in self.parameters.items()))

    @property
    def has_a_limit(self) -> bool:
        """Whether the reference is a limit of the machine, not a rival."""
        return self.reference_name in _LIMITS

    def columns(self) -> dict[str, Any]:
        """The row without its samples: parameters, then median_us, ci95_us, … and, with a reference, ratio."""
        columns: dict[str, Any] = {"bench": self.bench, **self.parameters, **_statistics(self.ours)}
        if self.bytes_moved is not None:
            columns["bytes_moved"] = int(self.bytes_moved)
            columns["gb_per_s"] = self.bytes_moved / self.ours.median / 1e9
        if self.reference is not None:
            columns |= _against(self.ours, self.reference)
            columns["reference"] = self.reference_name
        columns |= dict(self.derived)
        return columns | {"wrong": self.wrong, "reduction": self.reduction}

    def series(self) -> dict[str, np.ndarray]:
        """All samples in seconds an operation, by the names they have in a file."""
        found = {"values": self.ours.values, "warmups": self.ours.warmups}
        if self.reference is not None:
            found |= {"reference_values": self.reference.values, "reference_warmups": self.reference.warmups}
        return found


def _statistics(samples: Samples) -> dict[str, Any]:
    values = samples.values
    return {
        "median_us": 1e6 * samples.median,
        "ci95_us": [1e6 * bound for bound in samples.interval],
        "mean_us": 1e6 * float(values.mean()),
        "min_us": 1e6 * float(values.min()),
        "max_us": 1e6 * float(values.max()),
        "p99_us": 1e6 * samples.quantile(0.99),
        "p999_us": 1e6 * samples.quantile(0.999),
        "iterations": len(values),
        "loops": samples.loops,
        "warmup_iterations": len(samples.warmups),
    }


def _against(ours: Samples, reference: Samples) -> dict[str, Any]:
    found = pair(ours, reference)
    return {
        "ratio": found.ratio,
        "ratio_ci95": list(found.ratio_interval),
        "extra_us": 1e6 * found.extra_s,
        "extra_ci95_us": [1e6 * bound for bound in found.extra_interval],
        "reference_median_us": 1e6 * reference.median,
        "reference_loops": reference.loops,
    }


@dataclass(frozen=True)
class Result:
    """What one call of `qafel-mpi bench` gives: rows, and where they come from."""

    bench: str
    rows: Sequence[Row]
    provenance: Mapping[str, Any]
    incomplete: str = ""  # why rows are missing; "": all are there

    def write_json(self, path: Path) -> None:
        """{bench, rows, provenance}; a row has its columns and its samples, `values_us` and so on."""
        rows = [row.columns() | _as_microseconds(row) | {"row": _describe(row)} for row in self.rows]
        content = {"bench": self.bench, "version": VERSION, "rows": rows, "provenance": dict(self.provenance)}
        if self.incomplete:
            content["incomplete"] = self.incomplete
        with whole(path) as part:
            part.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")

    def write_hdf5(self, path: Path) -> None:
        """A group a row, /BENCH/NNN: its columns are attributes, its samples datasets in seconds."""
        import h5py

        with (
            whole(path) as part,
            h5py.File(part, "w", locking=False) as file,
        ):  # ours alone until it is whole
            file.attrs["bench"], file.attrs["version"] = self.bench, VERSION
            if self.incomplete:
                file.attrs["incomplete"] = self.incomplete
            file.attrs["provenance"] = json.dumps(dict(self.provenance), default=str)
            for number, row in enumerate(self.rows):
                group = file.create_group(f"{row.bench}/{number:03d}")
                group.attrs["row"] = json.dumps(_describe(row))
                for name, value in row.columns().items():
                    if value is not None:
                        group.attrs[name] = value
                for name, values in row.series().items():
                    dataset = group.create_dataset(name, data=values)
                    dataset.attrs["unit"] = "s"


def _as_microseconds(row: Row) -> dict[str, list[float]]:
    # To the picosecond: six digits more than the clock has.
    return {f"{name}_us": [round(1e6 * v, 6) for v in vs.tolist()] for name, vs in row.series().items()}


def _describe(row: Row) -> dict[str, Any]:
    """What makes a Row again, with its series."""
    return {
        "bench": row.bench,
        "parameters": dict(row.parameters),
        "loops": row.ours.loops,
        "reference_loops": None if row.reference is None else row.reference.loops,
        "reference_name": row.reference_name,
        "bytes_moved": row.bytes_moved,
        "wrong": row.wrong,
        "reduction": row.reduction,
        "derived": dict(row.derived),
    }


def _remake(about: Mapping[str, Any], series: Mapping[str, np.ndarray]) -> Row:
    reference = None
    if about["reference_loops"] is not None:
        reference = Samples(series["reference_values"], series["reference_warmups"], about["reference_loops"])
    return Row(
        about["bench"],
        about["parameters"],
        Samples(series["values"], series["warmups"], about["loops"]),
        reference,
        about["reference_name"],
        about["bytes_moved"],
        about["wrong"],
        about["reduction"],
        about["derived"],
    )


def read(path: Path) -> Result:
    """A result from its JSON or HDF5 file. Raises ResultError."""
    try:
        with open(path, "rb") as file:
            is_hdf5 = file.read(8) == b"\x89HDF\r\n\x1a\n"
        return _read_hdf5(path) if is_hdf5 else _read_json(path)
    except OSError as error:
        raise ResultError(f"{path}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultError(f"{path}: not a whole result of qafel-mpi bench ({error!r})") from error


def _read_json(path: Path) -> Result:
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        _remake(row["row"], {n: np.array(row[f"{n}_us"]) / 1e6 for n in _SERIES if f"{n}_us" in row})
        for row in content["rows"]
    ]
    return Result(content["bench"], rows, content["provenance"], content.get("incomplete", ""))


def _read_hdf5(path: Path) -> Result:
    import h5py

    with h5py.File(path) as file:
        groups = [g for bench in file.values() for g in bench.values()]
        groups.sort(key=lambda g: g.name.rsplit("/", 1)[1])
        rows = [
            _remake(json.loads(g.attrs["row"]), {name: g[name][:] for name in _SERIES if name in g})
            for g in groups
        ]
        about = json.loads(file.attrs["provenance"])
        return Result(str(file.attrs["bench"]), rows, about, str(file.attrs.get("incomplete", "")))
