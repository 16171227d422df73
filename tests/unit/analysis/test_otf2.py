"""OTF2 archives, as OTF2's own otf2-print and the viewer ViTE read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pytest
from qafel_analysis import otf2
from qafel_analysis.example import Example, write
from qafel_analysis.read.timeline import Window

from qafel_mpi.trace.reader import open_trace

EVENT = re.compile(r"^([A-Z_]+) +(\d+) +(\d+)  ?(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("runs") / "a.h5", Example(messages=1000))


def printed(anchor: Path, *options: str) -> str:
    """What otf2-print says; warnings of its are errors."""
    program = shutil.which("otf2-print")
    if program is None:
        pytest.skip("needs otf2-print (Debian: otf2-tools)")
    done = subprocess.run(
        [program, "-Werror", *options, str(anchor)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-500:]
    return done.stdout


def events(anchor: Path) -> list[tuple[str, int, int, str]]:
    """(event, location, nanoseconds, the rest) as otf2-print lists them: in order of time."""
    return [(m[1], int(m[2]), int(m[3]), m[4]) for m in EVENT.finditer(printed(anchor))]


def lengths(found: list[tuple[str, int, int, str]], what: str) -> Counter[tuple[int, int]]:
    """Bytes by (location, peer) of these events."""
    total: Counter[tuple[int, int]] = Counter()
    for name, location, _, rest in found:
        if name == what:
            peer, length = re.findall(r"(?:Receiver|Sender): (\d+).*Length: (\d+)", rest)[0]
            total[location, int(peer)] += int(length)
    return total


def test_otf2_print_counts_the_messages_and_bytes_of_the_trace(run: Path, tmp_path: Path) -> None:
    written = otf2.to_otf2(run, tmp_path / "a.otf2")
    found = events(written.anchor)
    with open_trace(run) as trace:
        rows = trace.table("messages")
    sent, received = rows[rows["end"] == 0], rows[rows["end"] == 1]
    counts = Counter(name for name, *_ in found)
    assert counts["MPI_ISEND"] == counts["MPI_ISEND_COMPLETE"] == written.sends == len(sent) > 400
    assert counts["MPI_IRECV"] == counts["MPI_IRECV_REQUEST"] == written.receives == len(received)
    expected: Counter[tuple[int, int]] = Counter()
    for row in sent:
        expected[int(row["src"]), int(row["dst"])] += int(row["wire_bytes"])
    assert lengths(found, "MPI_ISEND") == expected
    assert written.bytes_sent == expected.total()
    assert {(dst, src): size for (src, dst), size in expected.items()} == lengths(found, "MPI_IRECV")
    tags = {
        (location == 0, re.findall(r"Tag: (\d+)", rest)[0])
        for n, location, _, rest in found
        if n == "MPI_ISEND"
    }
    assert tags == {(True, "11"), (False, "12")}


def test_regions_are_nested_and_last_as_long_as_in_the_trace(run: Path, tmp_path: Path) -> None:
    found = events(otf2.to_otf2(run, tmp_path / "a.otf2").anchor)
    open_: dict[int, list[tuple[str, int]]] = {}
    lasted: Counter[tuple[int, str]] = Counter()
    for name, location, at, rest in found:
        stack = open_.setdefault(location, [])
        if name == "ENTER":
            stack.append((rest.split('"')[1], at))
        elif name == "LEAVE":
            region, begin = stack.pop()
            assert region == rest.split('"')[1]
            lasted[location, region] += at - begin
    assert not any(open_.values())
    assert {region for _, region in lasted} == set(otf2.REGIONS)
    with open_trace(run) as trace:
        updates, rows = trace.table("updates"), trace.table("messages")
    decoded = rows[(rows["end"] == 1) & (rows["dst"] == 0)]
    assert lasted[0, "decode"] == pytest.approx(
        1e9 * (decoded["t_decode_end"] - decoded["t_decode_begin"]).sum()
    )
    steps = np.unique(rows[(rows["end"] == 0) & (rows["src"] == 0)][["t_encode_begin", "t_encode_end"]])
    assert lasted[0, "step"] == pytest.approx(
        1e9 * (steps["t_encode_end"] - steps["t_encode_begin"]).sum(), rel=1e-3
    )
    for client in range(4):
        trained_ns = 1e9 * updates["train_seconds"][updates["client"] == client].sum()
        assert lasted[client + 1, "train"] == pytest.approx(trained_ns, rel=1e-3)


def test_what_begins_within_another_and_ends_after_it_is_entered_again() -> None:
    found = list(otf2._nested([(0, 5, "train"), (3, 7, "decode"), (4, 4, "encode")]))
    assert found == [
        (0, True, "train"), (3, True, "decode"), (4, True, "encode"), (4, False, "encode"), (5, False, "decode"),
        (5, False, "train"), (5, True, "decode"), (7, False, "decode"),
    ]  # fmt: skip


def test_the_clocks_error_bounds_are_in_the_archive_and_times_before_the_begin_too(
    run: Path, tmp_path: Path
) -> None:
    early = Path(shutil.copy(run, tmp_path / "early.h5"))
    with h5py.File(early, "r+") as file:
        rows, file.attrs["started"] = file["messages"][:], "2026-11-27T12:00:00+00:00"
        for name in rows.dtype.names:
            if name.startswith("t_"):
                rows[name] -= 2.5
        file["messages"][:] = rows
    text = printed(otf2.to_otf2(early, tmp_path / "a.otf2").anchor, "-A", "-C")
    assert "Ticks per Seconds: 1000000000" in text
    assert re.search(r"Date: 2026-11-27 11:59:5[78]", text), "the clock's date is when its earliest event was"
    with open_trace(early) as trace:
        bounds = {int(r["rank"]): 1e9 * float(r["error_bound_s"]) for r in trace.table("clock")}
    offsets = re.findall(r"CLOCK_OFFSET +(\d+)  Time: \d+, Offset: \+0, StdDev: ([\d.e+-]+)", text)
    assert {int(rank) for rank, _ in offsets} == {0, *bounds}
    assert all(float(size) == pytest.approx(bounds.get(int(rank), 0.0)) for rank, size in offsets)
    assert len(events(tmp_path / "a.otf2/traces.otf2")) > 1000


def test_a_window_holds_what_is_in_it(run: Path, tmp_path: Path) -> None:
    found = events(otf2.to_otf2(run, tmp_path / "a.otf2", Window(0.5, 0.75)).anchor)
    assert min(at for _, _, at, _ in found) > 0.499e9
    assert max(at for _, _, at, _ in found) < 0.76e9
    assert Counter(n for n, *_ in found)["MPI_ISEND"] > 10


def test_an_older_archive_is_replaced_and_nothing_else_is(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a.otf2"
    otf2.to_otf2(run, folder, Window(0.5, 0.75))
    shorter = len(events(folder / "traces.otf2"))
    otf2.to_otf2(run, folder)
    assert len(events(folder / "traces.otf2")) > 2 * shorter
    (other := tmp_path / "b.otf2").mkdir()
    (other / "precious").touch()
    with pytest.raises(FileExistsError, match="no OTF2 archive"):
        otf2.to_otf2(run, other)
    assert [path.name for path in other.iterdir()] == ["precious"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.otf2", "b.otf2"]


def test_many_ranks_are_read_in_several_passes(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = events(otf2.to_otf2(run, tmp_path / "a.otf2").anchor)
    monkeypatch.setattr(otf2, "BATCH_ROWS", 200)
    assert events(otf2.to_otf2(run, tmp_path / "b.otf2").anchor) == whole


def test_vite_draws_it(run: Path, tmp_path: Path) -> None:
    program = shutil.which("vite")
    if program is None:
        pytest.skip("needs ViTE (Debian: vite)")
    anchor = otf2.to_otf2(run, tmp_path / "a.otf2", Window(0.5, 0.6)).anchor
    environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "XDG_RUNTIME_DIR": str(tmp_path)}
    subprocess.run(
        [program, "-e", str(tmp_path / "a.svg"), str(anchor)],
        check=True, capture_output=True, timeout=60, env=environment,
    )  # fmt: skip
    drawn = (tmp_path / "a.svg").read_text(errors="replace")
    assert drawn.count("<rect") > 50
    assert all(f"rank {rank}" in drawn for rank in range(5))
