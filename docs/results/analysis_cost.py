"""What the analysis of one long run costs: time and peak memory of each command, on a made-up trace.

python docs/results/analysis_cost.py 10000000 FOLDER/analysis.json     (measure.sh runs it; the trace stays in FOLDER)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from qafel_analysis.commands.record import write
from qafel_analysis.example import Example
from qafel_analysis.example import write as make_trace
from qafel_analysis.read import sources

from qafel_mpi.drivers.provenance import provenance

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
COMMANDS: dict[str, Sequence[str]] = {  # as it is shown: its words
    "h5py alone, reading every row of /messages": (sys.executable, "-c", ROWS_IN_BLOCKS),
    "qafel-analysis table big.h5": ("qafel-analysis", "table", "big.h5"),
    "qafel-analysis table big.h5 --messages": ("qafel-analysis", "table", "big.h5", "--messages"),
    'run.messages[["src", "dst", "wire_bytes"]].groupby(["src", "dst"]).sum()': (sys.executable, "-c", GROUPED),
    "qafel-analysis report big.h5": ("qafel-analysis", "report", "big.h5", "-o", "report.html"),
    "qafel-analysis figures big.h5": ("qafel-analysis", "figures", "big.h5", "-o", "figures"),
    "qafel-analysis export big.h5 --to parquet": (
        "qafel-analysis", "export", "big.h5", "--to", "parquet", "-o", "tables",
    ),
}  # fmt: skip


# A process's largest memory counts from the fork on, so a small process starts it, not this one.
STARTER = """
import json, resource, subprocess, sys, time
began = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
processor = used.ru_utime + used.ru_stime
print(json.dumps({"seconds": seconds, "processor_seconds": processor, "peak_bytes": 1024 * used.ru_maxrss}))
"""


def cost(words: Sequence[str], folder: Path) -> dict[str, float]:
    """Seconds, processor time and peak memory of one process. Raises CalledProcessError where it fails."""
    started = [sys.executable, "-c", STARTER, *words]
    said = subprocess.run(started, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(said)
    return found


def main() -> None:
    messages, kept = int(sys.argv[1]), Path(sys.argv[2])
    folder = kept.parent
    folder.mkdir(parents=True, exist_ok=True)
    trace = make_trace(folder / "big.h5", Example(messages=messages))
    about = sources.of_bench(provenance(["python", "docs/results/analysis_cost.py", *sys.argv[1:]]))
    costs = [{"command": name} | cost(words, folder) for name, words in COMMANDS.items()]
    content = {"messages": messages, "trace_bytes": trace.stat().st_size, "commands": costs}
    write(kept, "analysis", content, [about])


if __name__ == "__main__":
    main()
