"""Data sets from files in the formats of other federated learning tools, one file a format.

`task.dataset = "leaf:PATH"`, "tff:PATH", "npz:PATH" or "parquet:PATH". Clients are the files' own users. Nothing is
unpickled: what only pickle could load is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.datasets import Dataset
from qafel_mpi.tasks.errors import DataError
from qafel_mpi.tasks.files import leaf, npz, parquet, tff

READERS: dict[str, Callable[[Path, TaskConfig], Dataset]] = {
    "leaf": leaf.read,
    "tff": tff.read,
    "npz": npz.read,
    "parquet": parquet.read,
}


def load(config: TaskConfig, data_dir: Path | None) -> Dataset:
    """The data set that task.dataset names as FORMAT:PATH.

    A relative path is looked for in the working folder, then in data_dir. Raises DataError naming file, client and
    field.
    """
    kind, _, name = config.dataset.partition(":")
    given = Path(name).expanduser()
    places = [given, *([data_dir / given] if data_dir is not None and not given.is_absolute() else [])]
    found = next((path for path in places if path.exists()), None)
    if found is None:
        looked = " or ".join(str(path.absolute()) for path in places)
        raise DataError(f"task.dataset = {config.dataset!r}: there is no {looked}")
    return READERS[kind](found, config)
