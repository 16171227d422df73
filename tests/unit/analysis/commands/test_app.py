"""The command as a user types it: help, formats, bad files among good ones, and without MPI and torch."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
from qafel_analysis.commands.app import app
from qafel_analysis.example import Example, main, write
from qafel_analysis.figures import collect
from qafel_analysis.read import rows as table
from qafel_analysis.tables import messages, paper
from qafel_analysis.tables.compare import Run, groups
from typer.testing import CliRunner

from qafel_mpi.trace.merge import shards_of, write_run
from qafel_mpi.trace.reader import TraceError
from qafel_mpi.trace.recorder import Recorder
from tests.support import ROOT

COMMANDS = ("table", "compare", "figures", "export", "watch")


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("good") / "good.h5", Example(messages=1000))


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Path:
    """Of another run: what is made of it is no second file of the good one."""
    return write(tmp_path_factory.mktemp("other") / "other.h5", Example(messages=1000, seed=1))


def analysis(*arguments: object):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "200"})


# --- bad files --------------------------------------------------------------------------------------


def _cut(good: Path, bad: Path) -> None:
    bad.write_bytes(good.read_bytes()[: good.stat().st_size * 3 // 4])


def _foreign(good: Path, bad: Path) -> None:
    bad.write_bytes(b"\x7fELF" + bytes(1000))


def _foreign_hdf5(good: Path, bad: Path) -> None:
    with h5py.File(bad, "w") as file:
        file["images"] = np.zeros(10)
        file.attrs["schema_version"] = "two"


def _newer(good: Path, bad: Path) -> None:
    shutil.copy(good, bad)
    with h5py.File(bad, "r+") as file:
        file.attrs["schema_version"] = 99
        steps = file["steps"][:]
        del file["steps"]
        wider = np.zeros(
            len(steps), [("version", "<i8"), ("novelty", "<f8"), ("uploads", "<i8"), ("loss", "<f8")]
        )
        for name in ("version", "uploads", "loss"):
            wider[name] = steps[name]
        file["steps"] = wider


def _empty(good: Path, bad: Path) -> None:
    bad.touch()


def _without_a_table(good: Path, bad: Path) -> None:
    shutil.copy(good, bad)
    with h5py.File(bad, "r+") as file:
        del file["steps"]


def _senseless(good: Path, bad: Path) -> None:
    """A file that HDF5 reads and whose contents can't be."""
    shutil.copy(good, bad)
    with h5py.File(bad, "r+") as file:
        rows = file["messages"][:]
        rows["src"][5] = -7
        file["messages"][:] = rows
        updates = file["updates"][:]
        updates["client"][3] = 2**60
        file["updates"][:] = updates


def _half_written(good: Path, bad: Path) -> None:
    """A run that was killed: shards without a trace, the last block torn."""
    bad.mkdir()
    write_run(bad, {"algorithm": "qafel", "experiment": "", "ranks": 2, "buffer_size": 10})
    recorder = Recorder(bad, 0)
    with h5py.File(good) as file:
        for row in file["steps"][:20]:
            recorder.steps.append(tuple(row.tolist()))
    recorder.close()
    with open(bad / "steps.000000.npys", "ab") as shard:
        shard.write(b"\x93NUMPY half a block")


# What is made, what is said, and whether something of it can be read.
BAD = {
    "cut": (_cut, "cut short", True),
    "foreign": (_foreign, "not an HDF5 file", False),
    "foreign-hdf5": (_foreign_hdf5, "not a trace of qafel_mpi", False),
    "newer": (_newer, "schema version 99", True),
    "empty": (_empty, "empty file", False),
    "missing": (lambda good, bad: None, "no such file", False),
    "without-steps": (_without_a_table, "has no table /steps", False),
    "senseless": (_senseless, "damaged", False),
    "half-written": (_half_written, "has not been merged", True),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_and_the_others_are_tabled(good, other, tmp_path, name):
    make, words, readable = BAD[name]
    bad = tmp_path / f"{name}.h5"
    make(other, bad)
    done = analysis("table", bad, good, "--json")
    assert done.exit_code == 0
    assert f"{bad}" in done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    runs = {run["run"]: run for run in json.loads(done.stdout)}
    assert set(runs) == ({str(bad), str(good)} if readable else {str(good)})
    assert runs[str(good)] == json.loads(analysis("table", good, "--json").stdout)[0]
    alone = analysis("table", bad)
    assert alone.exit_code == (0 if readable else 2)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_does_not_spoil_figures_and_exports(good, other, tmp_path, name):
    make, words, _ = BAD[name]
    bad = tmp_path / f"{name}.h5"
    make(other, bad)
    found = collect.collect([bad, good], details=2, intervals=50)
    assert str(good) in {d.run["run"] for d in found.drawn}
    assert any(d.run["run"] == str(good) for d in found.details)
    assert words in " ".join([*found.failures, *found.notes])
    done = analysis("export", bad, good, "--to", "csv", "--table", "ranks", "-o", tmp_path)
    assert done.exit_code == 0
    assert (tmp_path / "good.ranks.csv").read_text().count("\n") == 6
    assert "Traceback" not in done.stderr


def test_a_cut_file_is_read_as_far_as_it_goes(good, tmp_path):
    """Every message before the cut, and every row of the tables that lie before it."""
    bad = tmp_path / "cut.h5"
    _cut(good, bad)
    rows, notes = messages.rows(bad)
    whole, _ = messages.rows(good)
    assert "cut short" in notes[0]
    assert 0 < sum(row["sent"] for row in rows) < sum(row["sent"] for row in whole)
    assert table.row(bad)["uploads"] == table.row(good)["uploads"]


def test_every_length_of_a_cut_file_is_read_or_refused_with_its_name(good, tmp_path):
    data, bad = good.read_bytes(), tmp_path / "cut.h5"
    refused = []
    for length in np.linspace(1, len(data) - 1, 25).astype(int):
        bad.write_bytes(data[:length])
        try:
            messages.rows(bad)
        except TraceError as error:
            refused.append(str(error))
    assert len(refused) < 15
    assert all(str(bad) in words for words in refused)


# --- formats, help, exit codes ----------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_exit_codes(command):
    done = analysis(command, "--help")
    assert done.exit_code == 0
    assert f"qafel-analysis {command} runs" in done.stdout
    assert "Exit codes" in done.stdout


def test_the_version_is_that_of_the_package():
    assert analysis("--version").stdout == f"qafel-analysis {version('qafel-mpi')}\n"


def test_bad_usage_is_exit_code_2(good, tmp_path):
    for arguments in (
        ["tabel"],
        ["table"],
        ["table", good, "--json", "--csv"],
        ["figures", good, "--window", "3:1", "-o", tmp_path],
        ["export", good, "--to", "xml"],
        ["figures", tmp_path / "none.h5", "-o", tmp_path],
    ):
        assert analysis(*arguments).exit_code == 2, arguments
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_named(good, tmp_path):
    (tmp_path / "file").touch()
    command = [
        sys.executable,
        "-c",
        "from qafel_analysis.commands.app import main; main()",
        "export",
        str(good),
    ]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "file")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr
    assert "Traceback" not in done.stderr


def test_figures_writes_what_it_prints(good, tmp_path):
    done = analysis("figures", good, "-o", tmp_path / "out", "--only", "links", "--only", "gap")
    assert done.exit_code == 0
    files = [Path(line) for line in done.stdout.split()]
    assert {f.name for f in files} == {
        "gap.pdf",
        "gap.png",
        "links-good.pdf",
        "links-good.png",
        "captions.md",
    }
    assert all(f.stat().st_size > 100 for f in files)
    assert "**gap**" in (tmp_path / "out" / "captions.md").read_text()


def test_messages_by_kind_in_every_format(good):
    rows = json.loads(analysis("table", good, "--messages", "--json").stdout)
    with h5py.File(good) as file:
        sent = file["messages"][:]
        sent = sent[sent["end"] == 0]
    assert sum(row["wire_bytes"] for row in rows) == sent["wire_bytes"].sum()
    assert {row["kind"]: row["sent"] for row in rows} == {
        "broadcast": (sent["kind"] == 1).sum(), "update": (sent["kind"] == 3).sum()
    }  # fmt: skip
    update = next(row for row in rows if row["kind"] == "update")
    assert update["encode_median_s"] == pytest.approx(40e-6, rel=0.13)
    assert update["clock_error_s"] == pytest.approx(2e-6)
    printed = csv.DictReader(io.StringIO(analysis("table", good, "--messages", "--csv").stdout))
    assert [row["kind"] for row in printed] == [row["kind"] for row in rows]
    assert "broadcast" in analysis("table", good, "--messages", "--markdown").stdout


@pytest.mark.parametrize("bound_s", [1.0, float("nan")])
def test_a_latency_that_the_clocks_can_not_tell_from_zero_is_not_claimed(good, tmp_path, bound_s):
    shutil.copy(good, tmp_path / "a.h5")
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        clock = file["clock"][:]
        clock["error_bound_s"][clock["rank"] > 0] = bound_s
        file["clock"][:] = clock
    rows = json.loads(analysis("table", tmp_path / "a.h5", "--messages", "--json").stdout)
    assert all(row["latency_median_s"] is None for row in rows)
    known = json.loads(analysis("table", good, "--messages", "--json").stdout)
    assert all(row["latency_median_s"] > row["clock_error_s"] for row in known)


def test_latex_and_markdown_are_whole_tables(good):
    latex = analysis("table", good, "--latex").stdout
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 2
    lines = [
        line for line in analysis("table", good, "--markdown").stdout.splitlines() if line.startswith("|")
    ]
    assert len({line.count("|") for line in lines[:3]}) == 1


# --- beside the paper -------------------------------------------------------------------------------


def test_beside_the_paper_says_reproduced_or_not_row_by_row(tmp_path):
    """The paper's own repetitions as runs are reproduced; twice as many uploads are not."""
    source, rows = paper.published()
    assert source
    row = next(r for r in rows if r.algorithm == "qafel" and len(r.uploads) > 1)

    def runs(factor: float) -> list[Run]:
        base = table.row(write(tmp_path / "x.h5", Example(messages=1000)))
        same = {
            "dataset": row.dataset, "algorithm": row.algorithm, "uplink_bits": row.client_bits,
            "downlink_bits": row.server_bits, "buffer_size": row.buffer_size,
            "target": f"accuracy ≥ {row.target_accuracy:g}",
        }  # fmt: skip
        return [base | same | {"seed": s, "uploads_to_target": factor * u} for s, u in enumerate(row.uploads)]

    def verdict(factor: float) -> str:
        beside = paper.against(groups(runs(factor)))
        assert len(beside) >= len(rows)
        return next(r.verdict for r in beside if r.group is not None)

    assert verdict(1.0) == "reproduced within the spread"
    assert verdict(2.0) == "not reproduced: more"
    assert verdict(0.5) == "not reproduced: fewer"


def test_compare_paper_lists_every_published_row(good):
    done = analysis("compare", good, "--paper", "--json")
    assert done.exit_code == 0
    assert len(json.loads(done.stdout)) == len(paper.published()[1])
    assert all(row["verdict"] == "no run" for row in json.loads(done.stdout))


# --- without the program's own needs ----------------------------------------------------------------

BLOCKED = """
import sys
class Blocked:
    names = {"mpi4py", "torch", "numba", "sklearn", "psutil"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Blocked())
import qafel_analysis
from qafel_analysis.commands.app import app
path = sys.argv[1]
assert len(qafel_analysis.load(path).messages) > 0
for arguments in ("table", "table --messages", "compare --paper", "figures --only gap", "export"):
    app([*arguments.split(), path], standalone_mode=False)
print(*sorted(Blocked.names & set(sys.modules)), "all done", file=sys.stderr)
"""


def test_it_works_without_mpi_and_torch(good, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(good)],
        capture_output=True, text=True, check=False, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "all done"
    assert {f.name for f in tmp_path.rglob("*.*")} == {"gap.pdf", "gap.png", "captions.md", "good.trace.json"}


def test_a_trace_of_any_size_is_made_up_by_a_command(tmp_path, capsys):
    out = tmp_path / "deep" / "big.h5"
    main([str(out), "--messages", "5000", "--ranks", "3", "--bits", "2", "--target", "0.8"])
    assert capsys.readouterr().out.strip() == str(out)
    run = table.row(out)
    with h5py.File(out) as file:
        assert len(file["messages"]) == pytest.approx(5000, rel=0.05)
    assert (run["ranks"], run["uplink_bits"], run["target"]) == (3, 2, "accuracy ≥ 0.8")
    assert run["uploads_to_target"] is not None
    with pytest.raises(SystemExit):
        main([str(out), "--ranks", "1"])


def test_shards_are_named_in_the_advice(good, tmp_path):
    bad = tmp_path / "run.shards"
    _half_written(good, bad)
    assert f"qafel-mpi merge {bad} makes run.h5" in analysis("table", bad, "--json").stderr
    assert shards_of(tmp_path / "run.h5") == bad


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["export", "a.h5", "--to", "csv", "--window", "0:1", "--gzip"],
            "--to csv takes no --window and no --gzip",
        ),
        (["export", "a.h5", "--table", "steps"], "--to perfetto takes no --table"),
        (["export", "a.h5", "--to", "otf2", "--gzip"], "--to otf2 takes no --gzip"),
        (["table", "a.h5", "--messages", "--target-loss", "1"], "--messages takes no --target-loss"),
        (["compare", "a.h5", "--sentence", "--paper"], "--sentence takes no --paper"),
        (["compare", "a.h5", "--sentence", "--json"], "choose one format, not --sentence and --json"),
        (["timeline", "a.h5", "--json", "--markdown"], "choose one format, not --json and --markdown"),
        (["pace", "a.h5", "--json", "--markdown"], "choose one format, not --json and --markdown"),
        (["table", "a.h5", "--target-accuracy", "85"], "85 is no share of 1"),
        (["table", "a.h5", "--target-accuracy", "nan"], "nan is no share of 1"),
        (["table", "a.h5", "--target-loss", "nan"], "nan is no number that a loss can reach"),
    ],
    ids=str,
)
def test_an_option_that_would_do_nothing_is_refused(words, says):
    done = analysis(*words)
    assert done.exit_code == 2
    assert says in " ".join(done.output.replace("│", " ").split())


# --- links ------------------------------------------------------------------------------------------


def test_link_names_the_fastest_and_refuses_rates_that_are_none(good):
    found = json.loads(analysis("link", good, "--between-ms", 10, "--mbit", "1,1000", "--json").stdout)
    assert [one["mbit"] for one in found] == [1, 1000]
    assert found[0]["seconds"] > found[1]["seconds"] > 0
    assert analysis("link", good, "--between-ms", 10, "--mbit", "fast").exit_code == 2
    assert analysis("link", good, "--between-ms", 10, "--target-accuracy", 1.1).exit_code == 2
