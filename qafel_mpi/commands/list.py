"""The command `list`: the named experiments, and whose data are missing."""

from __future__ import annotations

from pathlib import Path

from qafel_mpi import experiments
from qafel_mpi.commands import run as launch

EXAMPLES = "Example:\n\n  qafel-mpi list | grep cifar10"

# What to look for in the data folder: the list must not take the seconds that loading torch takes.
DATA_FILES = {
    "mushrooms": ("mushrooms.libsvm", "mushrooms.txt"),
    "fashion-mnist": ("train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"),
    "celeba": ("celeba", "img_align_celeba"),
    "cifar10": ("cifar-10-batches-py", "cifar-10-batches-bin"),
}
SYSTEM_DATA = Path("/usr/share/datasets")


def list_() -> None:
    """List the named experiments, one per line. "needs data" marks those whose data set is missing here."""
    names = experiments.names()
    width = max(map(len, names))
    for name in names:
        tables = experiments.tables(name)
        dataset = tables.get("task", {}).get("dataset", "digits")
        needs = "" if _is_here(dataset) else f" [needs data: {dataset}]"
        variants = f" [{len(tables['variants'])} variants]" if "variants" in tables else ""
        print(f"{name:<{width}}  {tables.get('description', '')}{variants}{needs}")


def _is_here(dataset: str) -> bool:
    folder = launch.own_data_dir() or launch.cache()
    places = (folder, folder / dataset, SYSTEM_DATA / dataset)
    files = DATA_FILES.get(dataset)
    return files is None or any((place / file).exists() for place in places for file in files)
