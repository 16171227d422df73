"""The package is a house with floors: imports go strictly downward. Read from the source, so that no import escapes.

Every import statement counts, also inside a function, under TYPE_CHECKING, or as import_module("a.literal").
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import ROOT

PACKAGE = "qafel_mpi"

# Rooms by floor. A room is a folder, or a module with its helpers: config.py and config_*.py.
FLOORS: dict[str, int] = {
    "testing": 6,
    "commands": 5,
    "replay": 5,
    "drivers": 4,
    "bench": 4,
    "config": 3,
    "experiments": 3,
    "algorithms": 2,
    "tasks": 2,
    "transport": 2,
    "trace": 2,
    "codecs": 1,
    "outputs": 1,
    "schedule": 1,
    "kernels": 0,
    "hdf5": 0,
    "parsing": 0,
    "stdio": 0,
    "schemas": 0,
    "setting": 0,
    "wire": 0,
    "own": 0,
    "startup": 0,
    "trace_schema": 0,
}
FORBIDDEN: dict[str, tuple[str, ...]] = {
    # An algorithm reads no clock, rank or file.
    "algorithms": (
        "mpi4py",
        "h5py",
        "time",
        "datetime",
        "qafel_mpi.transport",
        "qafel_mpi.trace",
        "qafel_mpi.tasks",
    ),
    "tasks": ("mpi4py", "h5py"),
    "transport": ("torch", "h5py", "qafel_mpi.codecs", "qafel_mpi.algorithms"),
    "trace": ("mpi4py", "torch"),
    "codecs": ("mpi4py", "h5py"),
    "schedule": ("mpi4py", "torch", "h5py"),
}
# The one reader of other people's HDF5. Traces are HDF5 too, and tasks/ has no business with them, so nowhere else.
ALLOWED = {("qafel_mpi/tasks/files/tff.py", "h5py")}
FORBIDDEN_AT_THE_TOP: dict[str, tuple[str, ...]] = {"commands": ("mpi4py", "h5py")}
# Steps sideways: the experiments are data, and config reads them; code of the user's own fails with parsing's error.
SIDEWAYS = {("config", "experiments"), ("own", "parsing")}
# Only the drivers and benchmarks bring two of these together; settings are no more than values.
APART = {"algorithms", "transport", "trace", "schedule"}
TOGETHER = {"drivers", "bench"}
SETTINGS = (f"{PACKAGE}.algorithms.presets", *(f"{PACKAGE}.{room}.config" for room in FLOORS))
# The environment and files of settings are read by config and above it.
READS_SETTINGS = ("os.environ", "os.environb", "os.getenv", "tomllib.load")
# Of the package, analysis/ sees what reads traces and how files are written; its own rooms lie on floors too.
ANALYSIS = "qafel_analysis"
ANALYSIS_MAY_IMPORT = (f"{PACKAGE}.outputs", f"{PACKAGE}.trace.reader", f"{PACKAGE}.trace_schema")
ANALYSIS_FLOORS: dict[str, int] = {
    "testing": 6,
    "commands": 5,
    "prometheus": 4,
    "report": 4,
    "export": 3,
    "otf2": 3,
    "watch": 3,
    "figures": 3,
    "theory": 2,
    "tables": 1,
    "read": 0,
    "example": 0,
}


@dataclass(frozen=True)
class Import:
    name: str  # dotted, with the imported attribute: "qafel_mpi.wire.HEADER"
    line: int
    at_the_top: bool  # run when the module is imported

    def within(self, *modules: str) -> bool:
        return any(self.name == module or self.name.startswith(module + ".") for module in modules)


def imports_of(tree: ast.AST, module: str, is_package: bool) -> Iterator[Import]:
    """All imports of a module's source; relative ones are made absolute."""

    def visit(node: ast.AST, at_the_top: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                yield from (Import(alias.name, node.lineno, at_the_top) for alias in names)
            case ast.ImportFrom(module=source, names=names, level=level):
                if level:
                    parts = module.split(".") if is_package else module.split(".")[:-1]
                    base = parts[: len(parts) - level + 1]
                    source = ".".join([*base, source] if source else base)
                yield from (Import(f"{source}.{alias.name}", node.lineno, at_the_top) for alias in names)
            case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
                if ast.unparse(function).endswith(("import_module", "__import__")):
                    yield Import(name, node.lineno, at_the_top)
            case ast.Attribute(value=ast.Name(id="os" | "tomllib" as source), attr=attribute):
                yield Import(f"{source}.{attribute}", node.lineno, at_the_top)
        deferred = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_the_top and not deferred)

    return visit(tree, True)


def room_of(name: str) -> str:
    """The room that a dotted name of the package lies in; "" for the package itself."""
    first = name.partition(".")[2].partition(".")[0]
    return "config" if first.startswith("config_") else first


def violations(root: Path) -> list[str]:
    """Every breach of the floors under root, as "file:line: what"."""
    found: list[str] = []
    for path in sorted((root / PACKAGE).rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        room = room_of(module)
        where = path.relative_to(root)
        if room and room not in FLOORS:
            found.append(f"{where}: {room} is on no floor")
            continue
        imports = list(imports_of(ast.parse(path.read_text()), module, path.name == "__init__.py"))
        judged = [i for i in imports if (where.as_posix(), i.name.partition(".")[0]) not in ALLOWED]
        found += [f"{where}:{i.line}: {what}" for i in judged for what in breaches(i, room, root)]
        found += together(where, room, imports)
    for path in sorted((root / "analysis").rglob("*.py")):
        where = path.relative_to(root)
        module = ".".join((ANALYSIS, *where.with_suffix("").parts[1:])).removesuffix(".__init__")
        room = room_of(module)
        if room and room not in ANALYSIS_FLOORS:
            found.append(f"{where}: {room} is on no floor")
            continue
        imports = list(imports_of(ast.parse(path.read_text()), module, path.name == "__init__.py"))
        found += [f"{where}:{i.line}: {what}" for i in imports for what in breaches_of_analysis(i, room)]
    return found


def breaches_of_analysis(i: Import, room: str) -> Iterator[str]:
    """What is wrong with one import of a module in this room of analysis/; its own __init__ may open any."""
    if i.within(PACKAGE) and not i.within(*ANALYSIS_MAY_IMPORT):
        yield f"analysis imports {i.name}"
    target = room_of(i.name) if i.within(ANALYSIS) else ""
    if room and target and target != room and ANALYSIS_FLOORS.get(target, -1) >= ANALYSIS_FLOORS[room]:
        yield f"{room} (floor {ANALYSIS_FLOORS[room]}) imports {target} (floor {ANALYSIS_FLOORS[target]})"


def breaches(i: Import, room: str, root: Path) -> Iterator[str]:
    """What is wrong with one import of a module in this room ("" is the package's own __init__)."""
    if i.within("qafel_analysis", "analysis"):
        yield f"{room or PACKAGE} imports {i.name}"
    if i.within(*FORBIDDEN.get(room, ())):
        yield f"{room} imports {i.name}"
    if i.at_the_top and i.within(*FORBIDDEN_AT_THE_TOP.get(room, ())):
        yield f"{room} imports {i.name} at its top"
    if FLOORS.get(room, 0) < FLOORS["config"] and i.within(*READS_SETTINGS):
        yield f"{room or PACKAGE} reads {i.name}"
    if not i.within(PACKAGE) or not (target := room_of(i.name)) or target == room:
        return
    if target not in FLOORS:
        if (root / PACKAGE / target).is_dir() or (root / PACKAGE / f"{target}.py").exists():
            yield f"{room} imports {target}, which is on no floor"
    elif not room or (FLOORS[target] >= FLOORS[room] and (room, target) not in SIDEWAYS):
        yield f"{room or PACKAGE} (floor {FLOORS.get(room)}) imports {target} (floor {FLOORS[target]})"


def together(where: Path, room: str, imports: list[Import]) -> list[str]:
    if room in TOGETHER:
        return []
    seen = {room_of(i.name) for i in imports if i.within(PACKAGE) and not i.within(*SETTINGS)} | {room}
    pair = sorted(seen & APART)
    return [f"{where}: brings {' and '.join(pair)} together"] if len(pair) > 1 else []


def circles(root: Path) -> list[list[str]]:
    """Groups of modules that import one another, however far around; imports inside functions count."""
    graph: dict[str, set[str]] = {}
    for top, package in ((PACKAGE, PACKAGE), ("analysis", ANALYSIS)):
        for path in (root / top).rglob("*.py"):
            parts = path.relative_to(root / top).with_suffix("").parts
            module = ".".join((package, *parts)).removesuffix(".__init__")
            tree = ast.parse(path.read_text())
            graph[module] = {i.name for i in imports_of(tree, module, path.name == "__init__.py")}
    edges = {
        module: {target for name in names if (target := module_of(name, graph)) and target != module}
        for module, names in graph.items()
    }
    reach = {module: reachable(module, edges) for module in edges}
    rings = {tuple(sorted(m for m in reach[n] if n in reach[m])) for n in edges if n in reach[n]}
    return [list(ring) for ring in sorted(rings)]


def module_of(name: str, modules: dict[str, set[str]]) -> str | None:
    """The module that a dotted import runs: itself, or the one that holds the imported attribute."""
    return next((m for m in (name, name.rpartition(".")[0]) if m in modules), None)


def reachable(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        if (module := waiting.pop()) not in seen:
            seen.add(module)
            waiting += edges[module]
    return seen


def test_no_modules_import_one_another() -> None:
    assert circles(ROOT) == []


def test_a_circle_is_seen_also_through_a_function(house: Path) -> None:
    (house / "qafel_mpi/trace/live.py").write_text("from qafel_mpi.trace.shards import a\n")
    (house / "qafel_mpi/trace/shards.py").write_text("def f():\n    from qafel_mpi.trace import live\n")
    assert circles(house) == [["qafel_mpi.trace.live", "qafel_mpi.trace.shards"]]


def test_imports_go_strictly_downward() -> None:
    assert violations(ROOT) == []


def test_the_command_starts_without_mpi_and_hdf5() -> None:
    """Also not through what it imports."""
    code = "import sys, qafel_mpi.commands.app; print(sorted({'mpi4py', 'h5py', 'torch'} & set(sys.modules)))"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert seen.stdout.strip() == "[]"


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small house in order: each room looks one floor down."""
    sources = {
        "qafel_mpi/__init__.py": "from importlib.metadata import version",
        "qafel_mpi/commands/app.py": "import typer\nfrom qafel_mpi.commands import process\n"
        "def run():\n    import mpi4py, h5py\n",
        "qafel_mpi/commands/process.py": "import os\nfrom qafel_mpi.drivers import wall\nos.environ['A']\n",
        "qafel_mpi/drivers/wall.py": "from qafel_mpi import trace, transport\nfrom qafel_mpi.config import load\n",
        "qafel_mpi/config.py": "import tomllib\nfrom .algorithms.config import A\nfrom .transport.config import B\n"
        "from qafel_mpi import experiments\n",
        "qafel_mpi/algorithms/server.py": "import torch\nfrom ..codecs.base import Codec\nfrom . import weights\n",
        "qafel_mpi/transport/frames.py": "from mpi4py import MPI\nfrom qafel_mpi import __version__, wire\n",
        "qafel_mpi/trace/reader.py": "import h5py\nfrom qafel_mpi.trace_schema import TABLES\n",
        "qafel_mpi/codecs/base.py": "from qafel_mpi.kernels import keys\nfrom qafel_mpi.codecs.config import C\n",
        "qafel_mpi/wire.py": "import numpy\n",
        "analysis/__init__.py": "from qafel_analysis.read import frames",
        "analysis/read/frames.py": "from qafel_mpi.trace.reader import open_trace\n",
        "analysis/tables/grid.py": "from qafel_analysis.read import frames\nfrom . import views\n",
    }
    for name, source in sources.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return tmp_path


def test_a_house_in_order_passes(house: Path) -> None:
    assert violations(house) == []


@pytest.mark.parametrize(
    ("file", "source", "complaint"),
    [
        ("wire.py", "from qafel_mpi.codecs import base", "wire (floor 0) imports codecs (floor 1)"),
        ("kernels/gpu.py", "import qafel_mpi.wire", "kernels (floor 0) imports wire (floor 0)"),
        (
            "codecs/x.py",
            "from qafel_mpi.schedule.events import Event",
            "codecs (floor 1) imports schedule (floor 1)",
        ),
        ("codecs/x.py", "from .. import schedule", "codecs (floor 1) imports schedule (floor 1)"),
        ("codecs/x/__init__.py", "from ...tasks import base", "codecs (floor 1) imports tasks (floor 2)"),
        ("tasks/x.py", "from qafel_mpi.trace import reader", "tasks (floor 2) imports trace (floor 2)"),
        (
            "drivers/x.py",
            "def f():\n    from qafel_mpi.bench import check",
            "drivers (floor 4) imports bench (floor 4)",
        ),
        (
            "schedule/x.py",
            "if TYPE_CHECKING:\n    from qafel_mpi.config import E",
            "(floor 1) imports config (floor 3)",
        ),
        ("config_text.py", "import qafel_mpi.drivers.build", "config (floor 3) imports drivers (floor 4)"),
        (
            "tasks/x.py",
            "import_module('qafel_mpi.commands.app')",
            "tasks (floor 2) imports commands (floor 5)",
        ),
        ("__init__.py", "from qafel_mpi.wire import HEADER", "qafel_mpi (floor None) imports wire (floor 0)"),
        ("algorithms/x.py", "from time import perf_counter", "algorithms imports time.perf_counter"),
        ("algorithms/x.py", "def f():\n    import mpi4py.MPI", "algorithms imports mpi4py.MPI"),
        ("tasks/x.py", "import h5py as h", "tasks imports h5py"),
        ("tasks/files/npz.py", "import h5py", "tasks imports h5py"),
        ("tasks/files/tff.py", "import mpi4py", "tasks imports mpi4py"),
        ("transport/x.py", "import torch.distributed", "transport imports torch.distributed"),
        (
            "transport/x.py",
            "from qafel_mpi.codecs import CODECS",
            "transport imports qafel_mpi.codecs.CODECS",
        ),
        ("trace/x.py", "from mpi4py import MPI", "trace imports mpi4py.MPI"),
        ("schedule/x.py", "import torch", "schedule imports torch"),
        ("commands/show.py", "import h5py", "commands imports h5py at its top"),
        (
            "commands/show.py",
            "try:\n    from mpi4py import MPI\nexcept ImportError:\n    pass",
            "imports mpi4py.MPI at its top",
        ),
        ("tasks/x.py", "import os\nos.environ.get('A')", "tasks reads os.environ"),
        ("transport/x.py", "from os import getenv", "transport reads os.getenv"),
        ("tasks/x.py", "import tomllib\ntomllib.load(file)", "tasks reads tomllib.load"),
        (
            "config_x.py",
            "from .trace import a\nfrom .schedule import b",
            "brings schedule and trace together",
        ),
        (
            "algorithms/x.py",
            "from qafel_mpi.schedule import events",
            "brings algorithms and schedule together",
        ),
        ("attic.py", "", "attic is on no floor"),
        ("wire.py", "import qafel_analysis.read.frames", "wire imports qafel_analysis.read.frames"),
        (
            "../analysis/read/x.py",
            "from qafel_mpi.config import load",
            "analysis imports qafel_mpi.config.load",
        ),
        (
            "../analysis/read/x.py",
            "from qafel_mpi.trace import merge",
            "analysis imports qafel_mpi.trace.merge",
        ),
        (
            "../analysis/tables/x.py",
            "def f():\n    from qafel_analysis.report import page",
            "tables (floor 1) imports report (floor 4)",
        ),
        (
            "../analysis/theory/x.py",
            "from ..figures import draw",
            "theory (floor 2) imports figures (floor 3)",
        ),
        ("../analysis/attic.py", "", "attic is on no floor"),
    ],
)
def test_a_breach_is_seen(house: Path, file: str, source: str, complaint: str) -> None:
    path = house / PACKAGE / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    assert any(complaint in line for line in violations(house)), violations(house)
