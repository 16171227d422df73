"""A trace as pandas frames, lazily.

>>> import qafel_analysis                                                # doctest: +SKIP
>>> run = qafel_analysis.load("runs/a.h5")                               # doctest: +SKIP
>>> run.steps[["uploads", "accuracy"]].dropna()                          # doctest: +SKIP
>>> run.updates["payload_bytes"].sum()                                   # doctest: +SKIP
>>> sent = run.messages[["end", "src", "dst", "wire_bytes"]].query("end == 0")  # doctest: +SKIP
>>> sent.groupby(["src", "dst"])["wire_bytes"].sum()                     # doctest: +SKIP
>>> run.messages.where(lambda m: m.t_complete - m.t_post > 0.01)         # doctest: +SKIP
>>> sum(len(block) for block in run.messages.blocks())                   # doctest: +SKIP

`load` reads nothing but the attributes. `run.messages` and `run.updates` are LazyTables: asking for one column
gives a Series, for a list of columns a DataFrame, and only those columns are ever held; `blocks` and `where` go
through any number of messages in blocks of some 30 MB. A message has a row at each end: the sender's has end 0.
The columns are described in docs/trace.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from qafel_mpi.trace.reader import BLOCK_ROWS, open_trace
from qafel_mpi.trace_schema import KIND_NAMES, TABLES


class LazyTable:
    """One table of a trace file; the file is open only while it is read."""

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name

    @property
    def columns(self) -> list[str]:
        return list(TABLES[self.name].names or ())

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        return {name: TABLES[self.name][name] for name in self.columns}

    def __len__(self) -> int:
        with open_trace(self.path, salvage=True) as trace:
            return trace.rows(self.name)

    def __repr__(self) -> str:
        return f"<{self.path}: /{self.name}, {len(self):,} rows, columns {', '.join(self.columns)}>"

    def __getitem__(self, columns: str | Sequence[str]) -> Any:
        """One column as a Series, or a list of columns as a DataFrame. Raises KeyError for an unknown one."""
        if isinstance(columns, str):
            return self[[columns]][columns]
        self._check(columns)
        with open_trace(self.path, salvage=True) as trace:
            parts: dict[str, list[np.ndarray]] = {c: [np.zeros(0, TABLES[self.name][c])] for c in columns}
            for block in trace.blocks(self.name):  # of a run that goes on there are more than when we began
                for name, own in parts.items():
                    own.append(block[name].copy())  # not a view, which would hold all columns
        return pd.DataFrame({name: _text(np.concatenate(own)) for name, own in parts.items()}, copy=False)

    def blocks(self, columns: Sequence[str] | None = None, rows: int = BLOCK_ROWS) -> Iterator[pd.DataFrame]:
        """The table as DataFrames of at most `rows` rows each; the index counts through."""
        names = self.columns if columns is None else list(columns)
        self._check(names)
        at = 0
        with open_trace(self.path, salvage=True) as trace:
            for block in trace.blocks(self.name, rows=rows):
                index = pd.RangeIndex(at, at + len(block))
                yield pd.DataFrame({name: _text(block[name]) for name in names}, index=index)
                at += len(block)

    def where(
        self, keep: Callable[[pd.DataFrame], Any], columns: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """The rows for which keep(block) is true; only they are held. columns: of the result."""
        names = self.columns if columns is None else list(columns)
        self._check(names)
        found = [block.loc[np.asarray(keep(block), dtype=bool), names] for block in self.blocks()]
        return pd.concat(found) if found else pd.DataFrame(columns=names)

    def head(self, rows: int = 5) -> pd.DataFrame:
        return next(self.blocks(rows=rows), pd.DataFrame(columns=self.columns))

    def to_pandas(self) -> pd.DataFrame:
        """The whole table at once: 117 bytes a message."""
        return self[self.columns]

    def _check(self, columns: Sequence[str]) -> None:
        if unknown := [c for c in columns if c not in self.columns]:
            raise KeyError(f"/{self.name} has no column {unknown[0]!r}; it has {', '.join(self.columns)}")


def _text(array: np.ndarray) -> Any:
    """Bytes as strings; numbers as they are."""
    return (
        [value.decode("utf-8", "replace") for value in array.tolist()] if array.dtype.kind == "S" else array
    )


class Run:
    """One trace file. Messages and updates, which may be millions, are LazyTables; the rest are DataFrames."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with open_trace(self.path, salvage=True) as trace:
            self.attributes: dict[str, Any] = {
                key: json.loads(value) if key in ("versions", "scheduler", "rows") else value
                for key, value in trace.attributes.items()
            }
            self.experiment: dict[str, Any] = trace.experiment
            self.notes: tuple[str, ...] = trace.notes
        self._short: dict[str, pd.DataFrame] = {}

    def __repr__(self) -> str:
        return f"<run {self.path}: {self.attributes.get('algorithm')}, {self.attributes.get('outcome')}>"

    @property
    def messages(self) -> LazyTable:
        """Two rows a message: the sender's (end 0) and the receiver's (end 1)."""
        return LazyTable(self.path, "messages")

    @property
    def updates(self) -> LazyTable:
        """One row per client update."""
        return LazyTable(self.path, "updates")

    @property
    def steps(self) -> pd.DataFrame:
        return self._frame("steps")

    @property
    def ranks(self) -> pd.DataFrame:
        return self._frame("ranks")

    @property
    def clock(self) -> pd.DataFrame:
        return self._frame("clock")

    @property
    def faults(self) -> pd.DataFrame:
        """What went wrong; kinds are numbers of trace_schema.FAULT_NAMES. Raises TraceError where there is none."""
        return self._frame("faults")

    def _frame(self, name: str) -> pd.DataFrame:
        if name not in self._short:
            self._short[name] = LazyTable(self.path, name).to_pandas()
        return self._short[name]


def load(path: str | Path) -> Run:
    """Open a trace, or the folder of shards of a run that is not merged. Raises TraceError."""
    return Run(path)


def kind_names(kinds: pd.Series) -> pd.Series:
    """The names of /messages' kinds, as a categorical.

    >>> kind_names(pd.Series([1, 3])).tolist()
    ['broadcast', 'update']
    """
    return kinds.map(KIND_NAMES).fillna("unknown").astype("category")
