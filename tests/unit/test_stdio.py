"""What can't be printed fails nothing: not a reader that has gone, a full disk, or an encoding without our signs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

LINES = """
import sys
from qafel_mpi.stdio import make_steadfast
make_steadfast("program")
for number in range(20_000):
    print("line", number, "\u2016x\u2016")
    print("note", number, file=sys.stderr)
sys.stdout.flush()
open(sys.argv[1], "w").write("came to its end")
sys.exit(75)
"""


def program(folder: Path) -> list[str]:
    return [sys.executable, "-c", LINES, str(folder / "done")]


def test_a_reader_that_has_gone_is_said_once_and_changes_no_exit_code(tmp_path: Path) -> None:
    with subprocess.Popen(
        program(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "line 0 \u2016x\u2016\n"
        process.stdout.close()
        assert process.stderr is not None
        said = [line for line in process.stderr.read().splitlines() if not line.startswith("note")]
    assert said == ["program: stdout can't be written (Broken pipe); the rest is dropped"]
    assert process.returncode == 75
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", ">&- 2>&-", ">/dev/full 2>/dev/full"])
def test_streams_that_are_closed_or_full_are_survived(tmp_path: Path, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$@" {closed}', "sh", *program(tmp_path)], capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 75
    assert (tmp_path / "done").exists()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_what_an_encoding_lacks_is_written_as_an_escape(tmp_path: Path, encoding: str) -> None:
    done = subprocess.run(
        program(tmp_path), env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=False
    )
    assert done.returncode == 75
    assert done.stdout.startswith(rb"line 0 \u2016x\u2016")


def test_a_pipe_that_does_not_block_gets_every_line(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with subprocess.Popen(program(tmp_path), stdout=writer, stderr=subprocess.DEVNULL) as process:
        os.close(writer)
        with open(reader, "rb") as output:
            lines = output.read().splitlines()
    assert process.returncode == 75
    assert len(lines) == 20_000
    assert lines[-1].startswith(b"line 19999")
