"""A trace with any bytes changed: what was written, or an error that names the file; never other numbers, and no
signal ends the process, also where the file has no checksums."""

from __future__ import annotations

import random

import h5py
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qafel_analysis.commands.app import app
from typer.testing import CliRunner

from qafel_mpi.commands.app import app as mpi
from qafel_mpi.trace.reader import TraceError, open_trace
from qafel_mpi.trace.seal import Seal
from qafel_mpi.trace_schema import TABLES
from tests.fuzz.bounds import FACTOR, bounded, inputs
from tests.fuzz.mutations import changed, changes
from tests.unit.trace.made import whole_trace


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    return whole_trace(tmp_path_factory.mktemp("trace") / "a.h5")


@pytest.fixture(scope="module")
def unsealed(trace, tmp_path_factory):
    """As an older version, or another program, writes it."""
    path = tmp_path_factory.mktemp("unsealed") / "a.h5"
    path.write_bytes(trace.read_bytes())
    with h5py.File(path, "r+") as file:
        del file["seal"]
    path.write_bytes(path.read_bytes().replace(b"QFSEAL1", b"-------"))
    assert Seal.of(path) is None
    return path


def content(path, **options):
    with bounded(512), open_trace(path, **options) as trace:
        trace.verify()
        tables = {name: trace.table(name).tobytes() for name in TABLES}
        return tables, trace.attributes, trace.final("x"), trace.digest("x"), trace.notes


@given(done=changes(), salvage=st.booleans())
@inputs(30)
def test_what_is_read_of_a_changed_trace_was_written(trace, tmp_path_factory, done, salvage):
    """Of one that was cut short, salvaging reads rows that lie before the cut, and says so."""
    path = tmp_path_factory.getbasetemp() / "changed.h5"
    whole = trace.read_bytes()
    path.write_bytes(changed(whole, done))
    try:
        _tables, _attributes, _x, _digest, notes = content(path, salvage=salvage)
    except TraceError as error:
        assert "changed.h5" in str(error)
        return
    if not notes:
        assert path.read_bytes() == whole
    else:
        assert any("cut short" in note for note in notes)


@given(done=changes(2), salvage=st.booleans())
@inputs(4)
def test_a_changed_trace_without_checksums_is_read_or_refused(unsealed, tmp_path_factory, done, salvage):
    path = tmp_path_factory.getbasetemp() / "foreign.h5"
    path.write_bytes(changed(unsealed.read_bytes(), done))
    try:
        content(path, salvage=salvage)
    except TraceError as error:
        assert "foreign.h5" in str(error)


def flips(size: int, count: int) -> list[tuple[int, int]]:
    draws = random.Random(0)
    return [(draws.randrange(size), 1 << draws.randrange(8)) for _ in range(count * FACTOR)]


def refused(application, arguments: list[str], path, place: int, bit: int) -> str:
    """What the command says of the file with this bit flipped."""
    data = bytearray(path.read_bytes())
    data[place] ^= bit
    whole = path.read_bytes()
    path.write_bytes(data)
    try:
        done = CliRunner().invoke(application, arguments)
    finally:
        path.write_bytes(whole)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return f"{done.exit_code} {done.output}"


@pytest.mark.parametrize(
    ("command", "count"), [("table", 200), ("table --messages", 15), ("compare", 15), ("report", 15)]
)
def test_a_flipped_bit_anywhere_is_named_by_the_commands(trace, tmp_path, command, count):
    """A bit in a table that a command has no use for changes nothing of what it says, so that may pass unsaid."""
    page = tmp_path / "report.html"
    arguments = [*command.split(), str(trace), *(["-o", str(page)] if command == "report" else [])]
    good = CliRunner().invoke(app, arguments).output
    page.unlink(missing_ok=True)
    used = 0
    for place, bit in flips(trace.stat().st_size, count):
        said = refused(app, arguments, trace, place, bit)
        if said != f"0 {good}":
            used += 1
            assert f"{trace}: damaged: " in " ".join(said.split())
        # Figures of the messages may be left out, and all else is drawn; half a page is never there.
        assert page.exists() == (command == "report" and said.startswith("0"))
        assert not page.exists() or page.read_text().rstrip().endswith("</html>")
        page.unlink(missing_ok=True)
    assert used


def test_a_flipped_bit_in_the_descriptions_is_named_by_every_command(trace, tmp_path):
    seal = Seal.of(trace)
    assert seal is not None
    taken = [(r.begin, r.begin + r.size) for r in seal.regions.values()]
    places = [p for p, _ in flips(trace.stat().st_size, 2000) if not any(b <= p < e for b, e in taken)]
    assert len(places) > 30
    page = tmp_path / "report.html"
    for k, place in enumerate(places[: 30 * FACTOR]):
        words = (["table"], ["report", "-o", str(page)], ["compare"])[k % 3]
        said = refused(app, [*words, str(trace)], trace, place, 4)
        assert "its attributes or the descriptions of its tables are not those that were written" in said
        assert said.startswith("2")
    assert not page.exists()


def test_a_flipped_bit_in_a_shard_is_named_by_merge(tmp_path):
    out = whole_trace(tmp_path / "a.h5")
    shards = out.with_suffix(".shards")
    for k, path in enumerate([*sorted(shards.glob("*.npys")), shards / "run.json"]):
        for place, bit in flips(path.stat().st_size, 2):
            words = ["merge", str(shards), "--out", str(tmp_path / "b.h5"), "--overwrite"]
            done = refused(mpi, words, path, place, bit)
            assert done.startswith("0"), done
            if path.suffix == ".npys":
                assert path.name in done, (k, place)
            else:
                with open_trace(tmp_path / "b.h5") as trace:
                    assert "run.json could not be read" in trace.attributes["outcome"]
