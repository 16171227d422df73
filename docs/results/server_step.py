"""The server's step of this commit against an older one's, sampled in turns: two processes, of which one works.

python docs/results/server_step.py bbaa444 runs/results/server-step.json     (on a machine that does nothing else)

The older commit is checked out beside this one for a moment; for eden, which it has not, the first commit with eden.
A row each of codec and d, with the samples in seconds, their medians, and `ratio`: the older one's median over ours.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from qafel_analysis.commands.record import write
from qafel_analysis.read import sources

from qafel_mpi.drivers.provenance import provenance

ROOT = Path(__file__).parents[2]
SIZES, ROUNDS = (29_282, 11_689_512), 40
CODECS = ("qsgd", "identity", "fedbuff", "eden")
FIRST = {"eden": "cb309b3"}  # the first commit with a codec that the older one has not

# K = 1, momentum 0.3, 4 bits both ways, the norms of the trace. What both commits have.
PROGRAM = """
import sys, time
import numpy as np, torch
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build

torch.set_num_threads(1)
name, d = sys.argv[1], int(sys.argv[2])
quantized = name in ("qsgd", "eden")
config = CodecConfig(codec=name, bits=4) if quantized else CodecConfig(codec="identity")
layout = Layout(("weight",), ((1, d),))
up, down = build(config, layout), build(config, layout)
x0 = torch.randn(d, generator=torch.Generator().manual_seed(0))
settings = ServerConfig(buffer_size=1, momentum=0.3, learning_rate=0.01), StalenessConfig()
server = Server(x0, up, Replica(x0, down, assigns=name == "fedbuff"), *settings, seed=0, clients=1)
payload, out = np.zeros(up.payload_bytes(), np.uint8), np.zeros(down.payload_bytes(), np.uint8)
size = up.encode(x0, payload, 1)
for line in sys.stdin:
    total = 0.0
    for _ in range(int(line)):
        server.receive(Update(0, server.version, payload[:size], 1))
        begun = time.perf_counter()
        server.step(out)
        total += time.perf_counter() - begun
    print(total / int(line), flush=True)
"""


class Side:
    """One commit's server in a process of its own. folder: where the commit lies."""

    def __init__(self, folder: Path, name: str, d: int):
        environment = os.environ | {"PYTHONPATH": str(folder)}
        command = [sys.executable, "-c", PROGRAM, name, str(d)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.loops = max(1, 200_000 // d)
        self.samples: list[float] = []

    def ask(self) -> float:
        """Seconds of a step."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(self.loops, file=self.process.stdin, flush=True)
        return float(self.process.stdout.readline())

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with that commit's files."""
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent) / "older"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--detach", "--quiet", str(folder), commit], check=True)
        try:
            yield folder
        finally:
            subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def compare(commit: str, folder: Path, name: str, d: int) -> dict[str, object]:
    """The row of one codec and size. folder: of the older commit."""
    sides = {"older": Side(folder, name, d), "ours": Side(ROOT, name, d)}
    for side in sides.values():
        side.ask()  # compiled, and in the caches
    for _ in range(ROUNDS):
        for side in sides.values():
            side.samples.append(side.ask())
    for side in sides.values():
        side.end()
    older, ours = sides["older"].samples, sides["ours"].samples
    about = {
        "codec": name,
        "d": d,
        "older": commit,
        "older_median_s": median(older),
        "median_s": median(ours),
    }
    return about | {"ratio": median(older) / median(ours), "older_s": older, "values_s": ours}


def main(commit: str, out: Path) -> None:
    rows = []
    for name in CODECS:
        older = FIRST.get(name, commit)
        with checked_out(older) as folder:
            rows += [compare(older, folder, name, d) for d in SIZES]
    about = sources.of_bench(provenance(["python", "docs/results/server_step.py", commit, str(out)]))
    out.parent.mkdir(parents=True, exist_ok=True)
    write(out, "server_step", {"older": commit, "rows": rows}, [about])
    for row in rows:
        print(f"{row['codec']:9} d = {row['d']:>10,}: {row['ratio']:.2f} times the speed of {row['older']}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
