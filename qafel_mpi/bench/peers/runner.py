"""The program that runs a recipe in its environment: `python -P runner.py RECIPE.py WORK.json`.

It needs torch and numpy, and nothing of this package. For every line that it reads it does the work once, and prints
a line of JSON: see Report. What a peer prints itself goes to stderr.
"""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class Work:
    """What is to be done. Every client takes `local_steps` SGD steps on all of its examples, which are one batch."""

    algorithm: str  # fedavg, fedbuff; ours alone: qafel
    model: str  # mlp, cnn
    clients: int
    cohort: int  # clients of a round; of fedbuff and qafel: clients that train at the same time
    buffer: int  # uploads of a server step
    steps: int  # of the server
    local_steps: int
    learning_rate: float
    seed: int
    data: str  # an .npz: x (n, *shape) float32, y and client (n,) int64, test_x, test_y; start (d,) float32
    laps: list[float] = field(default_factory=list, init=False)
    tcp_bytes: list[int] = field(default_factory=list, init=False)  # at the first lap and the last one
    peak_bytes: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        with np.load(self.data) as file:
            self.arrays = {name: torch.from_numpy(file[name]) for name in file.files}

    def __reduce__(self) -> tuple[Any, ...]:
        """To another process of the peer it goes as its settings, and is made once there."""
        return kept, (json.dumps({name: getattr(self, name) for name in SETTINGS}),)

    def lap(self, *, sockets: bool = False) -> None:
        """To be called after every server step: time and memory are taken here. sockets: and bytes sent by TCP."""
        last = len(self.laps) + 1 == self.steps
        if last:
            self.laps.append(perf_counter())
            self.peak_bytes = peak_bytes()
        if sockets and (last or not self.laps):
            self.tcp_bytes.append(tcp_bytes())
        if not last:
            self.laps.append(perf_counter())

    def sent_bytes(self) -> float | None:
        """An update's bytes on the sockets that lap looked at; None: there were none, or `ss` is missing."""
        if len(self.tcp_bytes) < 2 or min(self.tcp_bytes) < 0:
            return None
        return (self.tcp_bytes[1] - self.tcp_bytes[0]) / ((self.steps - 1) * self.buffer)

    def module(self) -> nn.Module:
        """The model with its start values."""
        shape, classes = self.arrays["x"].shape[1:], int(self.arrays["y"].max()) + 1
        made = MODELS[self.model](shape, classes)
        nn.utils.vector_to_parameters(self.arrays["start"].clone(), made.parameters())
        return made

    def examples(self, client: int) -> tuple[Tensor, Tensor]:
        """x and y of one client."""
        mine = self.arrays["client"] == client
        return self.arrays["x"][mine], self.arrays["y"][mine]

    def report(self, x: Tensor, **found: Any) -> Report:
        """For a recipe, which imports nothing from here."""
        return Report(x, **found)

    def accuracy(self, x: Tensor) -> float:
        """Of the model with the parameters x on the test examples."""
        made = self.module().eval()
        nn.utils.vector_to_parameters(x, made.parameters())
        with torch.no_grad():
            return float((made(self.arrays["test_x"]).argmax(1) == self.arrays["test_y"]).float().mean())


SETTINGS = tuple(name for name, one in Work.__dataclass_fields__.items() if one.init)


@cache
def kept(settings: str) -> Work:
    """In a process that a peer has started."""
    torch.set_num_threads(1)
    return Work(**json.loads(settings))


@dataclass
class Report:
    """What a recipe's `train` returns. x: (d,), the server's model at the end, in the order of Module.parameters().

    seconds, updates: left out, from the first lap to the last one. sent_bytes: an update's, up and down, as counted
    on the sockets; None: there are none. reported_bytes: as the peer says.
    """

    x: Tensor
    seconds: float | None = None
    updates: int | None = None
    sent_bytes: float | None = None
    reported_bytes: float | None = None


def figures(work: Work, report: Report) -> dict[str, Any]:
    """What is printed."""
    laps = work.laps
    found = {name: value for name, value in asdict(report).items() if name != "x"}
    if report.seconds is None:
        found |= {"seconds": laps[-1] - laps[0], "updates": (len(laps) - 1) * work.buffer}
    moved = report.x - work.arrays["start"]
    return found | {
        "server_steps": len(laps),
        "accuracy": work.accuracy(report.x),
        "moved": float(moved.norm()),
        "digest": moved[:: max(1, len(moved) // 256)].tolist(),  # enough to see whether two moved alike
        "peak_bytes": max(work.peak_bytes, peak_bytes()),
    }


# --- the models, as qafel_mpi.tasks.models has them -----------------------------------------------------------


def mlp(shape: tuple[int, ...], classes: int) -> nn.Module:
    """64 ReLUs."""
    inputs = int(np.prod(shape))
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, classes))


class CNN(nn.Module):
    """The paper's."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv2d(shape[0] if block == 0 else 32, 32, 3, padding=2) for block in range(4)
        )
        self.norm = nn.GroupNorm(32, 32)
        self.linear = nn.Linear(288, classes)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = torch.max_pool2d(torch.relu(self.norm(convolution(x))), 2)
        return self.linear(x.flatten(1))


MODELS: dict[str, Any] = {"mlp": mlp, "cnn": CNN}


# --- memory and sockets ---------------------------------------------------------------------------------------


def peak_bytes() -> int:
    """Peak resident memory of this process and of all that it started and that still run, added up; 0: unknown.

    Of the kernel's own counter: getrusage's has the parent's peak in it. Shared pages count in each process.
    """
    total = 0
    for process in family(os.getpid()):
        with suppress(OSError):
            for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    total += 1024 * int(line.split()[1])
    return total


def tcp_bytes() -> int:
    """Bytes that this process and those below it have sent by TCP, on connections that are open; -1: unknown.

    Both ends of a connection on this machine may be ours: each byte is sent once.
    """
    try:
        listed = subprocess.run(["ss", "-tinpHO"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return -1
    ours, total = set(family(os.getpid())), 0
    for line in listed.splitlines():
        sent = re.search(r"bytes_sent:(\d+)", line)
        if sent and any(int(pid) in ours for pid in re.findall(r"pid=(\d+)", line)):
            total += int(sent[1])
    return total


def family(root: int) -> list[int]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(path.parent.name))
    found = [root]
    for process in found:
        found += children.get(process, [])
    return found


def main(recipe: str, work: str) -> None:
    """One JSON line for every line of stdin; ends with it."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    torch.set_num_threads(1)
    train = runpy.run_path(recipe)["train"]
    settings = json.loads(Path(work).read_text(encoding="utf-8"))
    for _ in sys.stdin:
        todo = Work(**settings)
        torch.manual_seed(todo.seed)
        print(json.dumps(figures(todo, train(todo))), file=answers, flush=True)


if __name__ == "__main__":
    # Once more as a module of its folder, which comes last: a peer's own processes find Work there.
    sys.path.append(str(Path(__file__).parent))
    import_module("runner").main(*sys.argv[1:])
