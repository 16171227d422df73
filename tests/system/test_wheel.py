"""The package as a user installs it: a wheel in an environment of its own, called from another folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from tests.support import ROOT

SOURCES = ("qafel_mpi", "analysis", "jobs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: what an earlier build left in the repository stays out of it."""
    copy = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out), str(copy))
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel in it. It borrows the dependencies of this one, by a .pth file.

    Python looks at no .pth file in a folder that another .pth file adds, so the editable install here stays unseen.
    """
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    _pip("--python", str(folder / "bin/python"), "install", "--no-deps", "--no-index", str(wheel))
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (own / "borrowed.pth").write_text("".join(f"{path}\n" for path in sorted(borrowed)))
    return folder


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def user(environment, tmp_path) -> Callable[..., str]:
    """user(program, *arguments): its standard output, called from a folder and a home with nothing in them."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "QAFEL"))}
    variables |= {"HOME": str(tmp_path), "COLUMNS": "200", "PATH": f"{environment}/bin:{os.defpath}"}
    if libraries := sorted(Path(sys.prefix, "lib").glob("libmpi.so.*")):
        variables["MPI4PY_LIBMPI"] = str(libraries[0])  # the dependency that is no Python package

    def call(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [environment / "bin" / program, *arguments],
            cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_a_wheel_has_the_packages_alone_and_what_they_read(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert tops == {"qafel_mpi", "qafel_analysis", "qafel_jobs"}
    assert {"qafel_mpi/experiments/digits.toml", "qafel_jobs/site.env", "qafel_jobs/job.sh"} <= set(names)
    assert not [name for name in names if name.endswith((".pyc", ".h5"))]


def test_an_installed_wheel_lists_runs_renders_and_reports_from_any_folder(user, environment, tmp_path):
    where = "import qafel_mpi as a, qafel_analysis as b, qafel_jobs as c; print(a.__file__, b.__file__, c.__file__)"
    found = user("python", "-c", where).split()
    assert [Path(path).is_relative_to(environment) for path in found] == [True] * 3, found
    assert "digits " in user("qafel-mpi", "list")
    shown = user("qafel-mpi", "run", "digits", "--set", "stop.uploads=30", "--out", "a.h5")
    assert "outcome          finished" in shown
    with h5py.File(tmp_path / "a.h5") as trace:
        assert trace.attrs["uploads"] == 30
    assert "#SBATCH --account=p123\n" in user(
        "qafel-mpi", "jobs", "render", "single-node", "--account", "p123"
    )
    assert user("qafel-analysis", "report", "a.h5", "-o", "report.html").strip() == "report.html"
    assert "<html" in (tmp_path / "report.html").read_text(encoding="utf-8")
