"""What the analysis of one long run costs: seconds and peak memory of each command, on a made-up trace.

python docs/results/analysis_cost.py 10000000 FOLDER/analysis.json     (measure.sh runs it; the trace stays in FOLDER)
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qafel_analysis.commands.record import write
from qafel_analysis.example import Example
from qafel_analysis.example import write as make_trace
from qafel_analysis.read import sources

from qafel_mpi.drivers.provenance import provenance

LAUNCHES = 3
ROWS_IN_BLOCKS = """
import h5py
with h5py.File("big.h5") as trace:
    rows = trace["messages"]
    for at in range(0, len(rows), 262_144):
        rows[at : at + 262_144]
"""
GROUPED = """
import qafel_analysis
run = qafel_analysis.load("big.h5")
run.messages[["src", "dst", "wire_bytes"]].groupby(["src", "dst"]).sum()
"""
COMMANDS: dict[str, tuple[Sequence[str], int]] = {  # shown as: (words, launches)
    "h5py alone, reading every row of /messages": ((sys.executable, "-c", ROWS_IN_BLOCKS), LAUNCHES),
    "qafel-analysis table big.h5": (("qafel-analysis", "table", "big.h5"), LAUNCHES),
    "qafel-analysis table big.h5 --messages": (("qafel-analysis", "table", "big.h5", "--messages"), LAUNCHES),
    'run.messages[["src", "dst", "wire_bytes"]].groupby(["src", "dst"]).sum()': (
        (sys.executable, "-c", GROUPED),
        LAUNCHES,
    ),
    "qafel-analysis report big.h5": (("qafel-analysis", "report", "big.h5", "-o", "report.html"), 1),
    "qafel-analysis figures big.h5": (("qafel-analysis", "figures", "big.h5", "-o", "figures"), 1),
    "qafel-analysis export big.h5 --to parquet": (
        ("qafel-analysis", "export", "big.h5", "--to", "parquet", "-o", "tables"),
        1,
    ),
}


def cost(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds and peak memory of one process. Raises CalledProcessError where it fails."""
    began = time.perf_counter()
    process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, list(words))
    return {"seconds": seconds, "peak_bytes": 1024 * used.ru_maxrss}


def main() -> None:
    messages, kept = int(sys.argv[1]), Path(sys.argv[2])
    folder = kept.parent
    folder.mkdir(parents=True, exist_ok=True)
    trace = make_trace(folder / "big.h5", Example(messages=messages))
    about = sources.of_bench(provenance(["python", "docs/results/analysis_cost.py", *sys.argv[1:]]))
    costs: list[dict[str, Any]] = []
    for name, (words, launches) in COMMANDS.items():
        costs.append({"command": name, "launches": [cost(words, folder) for _ in range(launches)]})
    content = {"messages": messages, "trace_bytes": trace.stat().st_size, "commands": costs}
    write(kept, "analysis", content, [about])


if __name__ == "__main__":
    main()
