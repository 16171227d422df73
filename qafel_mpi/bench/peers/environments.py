"""Virtual environments for peers: DIR/PEER each, for their requirements and ours can't be met together.

An environment of `make` sees this one's packages behind its own, so that torch lies on the disk once.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

NAMES = ("pfl", "flower", "appfl", "flsim")
HOST = "host.pth"  # the file that names our folder of packages


class PeerError(Exception):
    """A peer that can't be installed, or that failed; the message names it."""


def recipe(name: str) -> ModuleType:
    """Its module; it imports nothing of the peer before `train` is called."""
    return import_module(f"qafel_mpi.bench.peers.{name}")


def python_of(folder: Path, name: str) -> Path:
    """The interpreter of the peer's environment, there or not."""
    return folder.absolute() / name / "bin" / "python"


def make(folder: Path, name: str) -> None:
    """Make the environment and install what the recipe requires, at the versions that it names.

    Raises PeerError with pip's last line. What ends early leaves no environment: a half one would be taken for whole.
    """
    try:
        _make(folder, name)
    except BaseException:
        shutil.rmtree(folder / name, ignore_errors=True)
        raise


def _make(folder: Path, name: str) -> None:
    paths = sysconfig.get_paths(vars={"base": str(folder / name), "platbase": str(folder / name)})
    venv.create(folder / name, with_pip=True)
    packages = Path(paths["purelib"])
    (packages / HOST).write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    wanted = requirements(recipe(name))
    call = [str(python_of(folder, name)), "-m", "pip", "install", "--quiet", *wanted]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise PeerError(f"{name}: pip install {' '.join(wanted)}: {last}")


def requirements(peer: ModuleType) -> list[str]:
    """Arguments of `pip install`. BARE: what its requirements require is not installed."""
    return ["--no-deps"] * getattr(peer, "BARE", False) + list(peer.REQUIRES)


def installed(folder: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """Peer -> interpreter, of those that are there."""
    found = {name: python_of(folder, name) for name in names}
    return {name: python for name, python in found.items() if python.exists()}
