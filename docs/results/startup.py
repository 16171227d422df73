"""What the start of a rank costs its host: files opened and mapped, calls to the file system, processor time.

python docs/results/startup.py docs/results/startup.json     (record.sh runs it; it needs strace)
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from qafel_analysis.commands.record import write
from qafel_analysis.read import sources

from qafel_mpi.drivers.provenance import provenance

CALLS = "trace=%file,read,pread64,lseek,fstat,getdents64,mmap"
_OPENED = re.compile(r'open(?:at)?\([^"]*"([^"]+)".* = \d+')
_MAPPED = re.compile(r"mmap\([^,]+, (\d+), .*<(/[^>]+)>, (?:0x)?[0-9a-f]+\)\s+= 0x")


def run(words: Sequence[str]) -> float:
    """Seconds of processor time of the command and of what it starts. Raises CalledProcessError."""
    before = os.times()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "calls"
        start = ["qafel-mpi", "run", "digits", "--set", "clock.kind=virtual", "--set", "stop.steps=1"]
        strace = f"strace -f -y -s 400 -e {CALLS} -o {log}".split()
        run([*start, "--out", f"{folder}/warm.h5"])  # kernels and byte code are kept from now on
        seconds = run([*start, "--out", f"{folder}/timed.h5"])
        run([*strace, *start, "--out", f"{folder}/seen.h5"])
        calls = [line for line in log.read_text(errors="replace").splitlines() if "(" in line]
    opened = {found[1] for line in calls if (found := _OPENED.search(line))}
    mapped: dict[str, int] = {}
    for line in calls:
        if found := _MAPPED.search(line):
            mapped[found[2]] = max(mapped.get(found[2], 0), int(found[1]))
    content = {
        "run": " ".join(start),
        "files_opened": len(opened),
        "files_of_python": sum(Path(name).is_relative_to(sys.base_prefix) for name in opened),
        "files_of_the_environment": sum(Path(name).is_relative_to(sys.prefix) for name in opened),
        "calls": sum("mmap(" not in line for line in calls),
        "mapped_bytes": sum(mapped.values()),
        "processor_seconds": seconds,
    }
    command = ["python", "docs/results/startup.py", *sys.argv[1:]]
    write(Path(sys.argv[1]), "startup", content, [sources.of_bench(provenance(command))])


if __name__ == "__main__":
    main()
