"""Marks of a start-up: their order, and the files opened between them."""

from __future__ import annotations

import subprocess
import sys


def test_files_that_python_opens_are_counted_between_marks(tmp_path):
    script = (
        "from qafel_mpi import startup\n"
        f"open({str(tmp_path / 'before')!r}, 'w').close()\n"
        "startup.count_opened(); startup.passed('one')\n"
        f"for name in 'abc': open({str(tmp_path)!r} + '/' + name, 'w').close()\n"
        "startup.passed('two')\n"
        "one, two = startup.MARKS\n"
        "assert one.phase == 'one' and two.at_s >= one.at_s and two.processor_s >= one.processor_s\n"
        "print(two.opened - one.opened)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "3\n"
