"""What the kinds of tests share: where things are, how MPI is started on one machine, which skips are expected."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def mpi_environment() -> dict[str, str]:
    """The variables of jobs/local.env, for mpirun on a machine with few cores, also as root."""
    lines = (ROOT / "jobs/local.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def search_path() -> str:
    """PATH with this interpreter's folder in front: its qafel-mpi, and its mpirun where the wheel is installed."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def mpirun() -> str:
    found = shutil.which("mpirun", path=search_path())
    if found is None:
        raise FileNotFoundError(
            "no mpirun: neither in the virtual environment nor on the PATH; run `make env`"
        )
    return found


def skip_is_expected(reason: str) -> bool:
    """A test may skip where the machine lacks something, and says so: "needs slurmctld", "needs chromium", ...

    CI installs all that can be installed, so there only a missing GPU is an excuse, what the kernel lacks, and the
    PMIx that SLURM was built for.
    """
    if os.environ.get("CI"):
        return reason.startswith(("needs a GPU", "needs a kernel with", "needs libpmix-dev"))
    return reason.startswith("needs ")


def check_against_schema(name: str, document: object) -> None:
    """Raise jsonschema.ValidationError where a command's JSON output is not what its schema says."""
    import jsonschema

    from qafel_mpi import schemas

    jsonschema.validate(document, schemas.schema(name), cls=jsonschema.Draft202012Validator)
