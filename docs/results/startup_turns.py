"""The start of 16 ranks of this commit against an older one's, in turns: seconds from mpirun to the first upload.

python docs/results/startup_turns.py bbaa444 runs/results/startup/turns.json     (on a machine that does nothing else)

The older commit is checked out beside this one for a moment. A run ends with its first server step. Both commits'
kernels are compiled before the first turn. `share`: our median over the older one's; `processor_s`: of all ranks, to
the end.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from qafel_analysis.commands.record import write
from qafel_analysis.read import sources

from docs.results.server_step import ROOT, checked_out
from qafel_mpi.drivers.provenance import provenance

RANKS, ROUNDS = 16, 5
RUN = "run digits --set clock.kind=wall --set server.buffer_size=1 --set stop.steps=1"

# On any rank, which writes down when its server receives its first upload: rank 0's alone does. Nothing is imported
# earlier than the command itself imports it: that is what is measured.
PROGRAM = """
import sys, threading, time

def watch(file):
    while (module := sys.modules.get("qafel_mpi.algorithms.server")) is None or not hasattr(module, "Server"):
        time.sleep(0.02)
    for name in ("receive", "receive_all"):
        if (wrapped := getattr(module.Server, name, None)) is not None:
            setattr(module.Server, name, seen(wrapped, file))

def seen(wrapped, file):
    def receive(*arguments, **more):
        with open(file, "a") as log:
            print(time.time(), file=log)
        return wrapped(*arguments, **more)
    return receive

threading.Thread(target=watch, args=(sys.argv.pop(1),), daemon=True).start()
try:
    from qafel_mpi.commands.start import main
except ModuleNotFoundError:
    from qafel_mpi.cli import main
sys.exit(main())
"""


def start(folder: Path, scratch: Path) -> dict[str, float]:
    """One run of the commit that lies in this folder. Raises CalledProcessError."""
    program, seen = scratch / "program.py", scratch / "seen"
    program.write_text(PROGRAM)
    seen.unlink(missing_ok=True)
    command = ["mpirun", "-n", str(RANKS), sys.executable, str(program), str(seen), *RUN.split()]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    before, begun_s = os.times(), time.time()
    out = scratch / f"{time.monotonic_ns()}.h5"
    subprocess.run(
        [*command, "--out", str(out)],
        cwd=folder,
        env=environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after = os.times()
    first_s = float(seen.read_text().split()[0])
    processor_s = after.children_user + after.children_system - before.children_user - before.children_system
    return {"first_upload_s": first_s - begun_s, "processor_s": processor_s}


def main(commit: str, out: Path) -> None:
    with checked_out(commit) as folder, tempfile.TemporaryDirectory() as scratch:
        sides = {"older": folder, "ours": ROOT}
        for side in sides.values():
            start(side, Path(scratch))
        found: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, side in sides.items():
                found[name].append(start(side, Path(scratch)))
    rows = []
    for what in ("first_upload_s", "processor_s"):
        samples = {name: [one[what] for one in found[name]] for name in sides}
        older, ours = median(samples["older"]), median(samples["ours"])
        rows.append(
            {"what": what, "older_median": older, "median": ours, "share": ours / older}
            | {"older_values": samples["older"], "values": samples["ours"]}
        )
        print(f"{what}: {ours:.1f} s, {older:.1f} s at {commit}: {ours / older:.2f} of it")
    about = sources.of_bench(provenance(["python", "docs/results/startup_turns.py", commit, str(out)]))
    out.parent.mkdir(parents=True, exist_ok=True)
    content = {"older": commit, "ranks": RANKS, "run": f"qafel-mpi {RUN}", "rows": rows}
    write(out, "startup_turns", content, [about])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
