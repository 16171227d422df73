"""Made-up traces of any size: to try the analysis without a run, to test it, and to measure it.

A made-up run is a function of its settings alone. Uploads arrive from client ranks of different speeds, every
K-th makes a server step, each step goes to all client ranks; accuracy rises with the uploads. Nothing was
trained, and the trace says so in its outcome.

    python -m qafel_analysis.example runs/big.h5 --messages 10000000
    python -m qafel_analysis.example runs/fedbuff.h5 --algorithm fedbuff --seed 1
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import h5py
import numpy as np

from qafel_mpi.trace_schema import (
    CLOCK,
    ENCODINGS,
    HEADER_BYTES,
    KIND_NAMES,
    MEMORY,
    MESSAGES,
    RANKS,
    SCHEMA,
    SCHEMA_VERSION,
    STEPS,
    UPDATES,
)

_KINDS = {name: kind for kind, name in KIND_NAMES.items()}
_SLICE = 262_144  # messages made at a time
_ENCODE_S, _DECODE_S, _LATENCY_S = 40e-6, 25e-6, 60e-6


@dataclass(frozen=True)
class Example:
    """The settings of a made-up run. Its uploads follow from the number of messages."""

    messages: int = 20_000
    ranks: int = 5
    buffer_size: int = 10
    algorithm: str = "qafel"
    bits: int = 4
    seed: int = 0
    parameters: int = 29_282
    target: float = 0.9
    uploads_to_target: int | None = None  # default: four fifths of the uploads

    @property
    def uploads(self) -> int:
        """Two rows an upload, two rows a client rank and step."""
        return max(self.buffer_size, round(self.messages / (2 + 2 * (self.ranks - 1) / self.buffer_size)))

    @property
    def payload_bytes(self) -> int:
        if self.algorithm == "fedbuff":
            return 4 * self.parameters
        return self.parameters * self.bits // 8 + 4 * -(-self.parameters // 512)

    def experiment(self) -> str:
        codec = "identity" if self.algorithm == "fedbuff" else "qsgd"
        mode = "none" if self.algorithm == "fedbuff" else "hidden"
        bits = 32 if self.algorithm == "fedbuff" else self.bits
        return (
            f'description = "made up"\nalgorithm = "{self.algorithm}"\nseed = {self.seed}\n'
            '[task]\ndataset = "made-up"\nmodel = "none"\n'
            f'[server]\nbuffer_size = {self.buffer_size}\n[uplink]\ncodec = "{codec}"\nbits = {bits}\n'
            f'[downlink]\nmode = "{mode}"\ndelivery = "broadcast"\ncodec = "{codec}"\nbits = {bits}\n'
            f'[clock]\nkind = "wall"\n[stop]\naccuracy = {self.target}\n'
        )


def write(path: Path, example: Example) -> Path:
    """Write the made-up trace, in slices: memory grows with the uploads alone (some 100 bytes each)."""
    generator = np.random.default_rng([example.seed, len(example.algorithm), example.bits])
    updates = _updates(example, generator)
    steps = _steps(example, updates, generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name, value in _attributes(example, updates, steps).items():
            file.attrs[name] = value
        file["ranks"] = _ranks(example, updates, steps)
        file["clock"] = _clock(example, updates)
        file["steps"] = steps
        file["updates"] = updates
        file["memory"] = _memory(steps)
        file.create_dataset("faults", (0,), SCHEMA["faults"].stored_dtype)
        file["encodings"] = np.zeros(0, ENCODINGS)  # recorded on request
        broadcasts = len(steps) - 1
        rows = 2 * len(updates) + 2 * broadcasts * (example.ranks - 1)
        data = file.create_dataset("messages", (rows,), SCHEMA["messages"].stored_dtype)
        begin = 0
        for end in (1, 0):  # as a merge has them: rank 0's rows first
            for part in _parts(len(updates)):
                begin = _put(data, begin, _uploads(example, updates[part], end=end))
            for dst in range(1, example.ranks):
                for part in _parts(broadcasts):
                    begin = _put(data, begin, _broadcasts(example, steps[1:][part], dst, end=1 - end))
    return path


def _parts(count: int) -> list[slice]:
    return [slice(begin, min(begin + _SLICE, count)) for begin in range(0, count, _SLICE)]


def _put(data: h5py.Dataset, begin: int, rows: np.ndarray) -> int:
    data[begin : begin + len(rows)] = rows
    return begin + len(rows)


def _updates(example: Example, generator: np.random.Generator) -> np.ndarray:
    """Each client rank trains without pause; arrivals in order of time."""
    mean_s = generator.uniform(0.01, 0.03, example.ranks - 1)
    shares = (1 / mean_s) / (1 / mean_s).sum()
    counts = (1.05 * example.uploads * shares).astype(int) + 20  # a little more than the fastest will need
    parts = []
    for client, (count, mean) in enumerate(zip(counts, mean_s, strict=True)):
        part = np.zeros(count, dtype=UPDATES)
        part["client"], part["participation"] = client, np.arange(count)
        part["train_seconds"] = generator.gamma(8.0, mean / 8.0, count)
        part["finish_s"] = np.cumsum(part["train_seconds"] + _LATENCY_S)
        part["start_s"] = part["finish_s"] - part["train_seconds"] - _LATENCY_S
        parts.append(part)
    rows = np.concatenate(parts)
    rows = rows[np.argsort(rows["finish_s"], kind="stable")[: example.uploads]]
    k = example.buffer_size
    step_s = rows["finish_s"][k - 1 :: k]
    rows["version"] = np.arange(len(rows)) // k
    rows["start_version"] = np.searchsorted(step_s, rows["start_s"])
    rows["staleness"] = rows["version"] - rows["start_version"]
    rows["weight"] = (1.0 + rows["staleness"]) ** -0.5
    rows["loss"] = 2.3 * np.exp(-3.0 * np.arange(len(rows)) / len(rows))
    rows["examples"] = 32
    rows["payload_bytes"] = example.payload_bytes
    rows["order"], rows["rank"] = np.arange(len(rows)) % k, rows["client"] + 1
    rows["digest"] = np.arange(1, len(rows) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return rows


def _steps(example: Example, updates: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Evaluated at every tenth step and the last; the target is crossed at `uploads_to_target`."""
    k = example.buffer_size
    count = len(updates) // k
    rows = np.zeros(count + 1, dtype=STEPS)
    version = np.arange(count + 1)
    uploads = rows["uploads"] = version * k
    rows["version"] = version
    rows["time_s"][1:] = updates["finish_s"][k - 1 :: k][:count] + _ENCODE_S
    crossing = example.uploads_to_target or max(k, int(0.8 * len(updates)))
    accuracy = 0.1 + (example.target - 0.1) * (1 - np.exp(-4 * uploads / crossing)) / (1 - np.exp(-4))
    below = uploads < crossing
    noise = generator.normal(0, 0.004, count + 1)
    rows["accuracy"] = np.where(below, np.minimum(accuracy + noise, example.target - 1e-3), accuracy + 1e-3)
    rows["loss"] = 2.3 * (1.02 - rows["accuracy"])
    rows["gradient_norm_squared"] = 1.0 / np.sqrt(1.0 + version)
    rows["step_norm"] = 0.1 / np.sqrt(1.0 + version)
    rows["difference_norm"] = 1.1 * rows["step_norm"]
    relative = 0.0 if example.algorithm == "fedbuff" else 0.6 * 2.0 ** (1 - example.bits)
    rows["quantization_error"] = rows["gap"] = relative * rows["difference_norm"]
    rows["payload_bytes_up"] = uploads * example.payload_bytes
    rows["payload_bytes_down"] = version * example.payload_bytes
    rows["messages_down"] = version
    skipped = (version % 10 != 0) & (version != count)
    for name in ("loss", "accuracy", "gradient_norm_squared"):
        rows[name][skipped] = np.nan
    rows["bits_per_byte"] = np.nan
    return rows


def _message_rows(example: Example, count: int, kind: str, *, end: int) -> np.ndarray:
    rows = np.zeros(count, dtype=MESSAGES)
    for name in MESSAGES.names or ():
        if name.startswith("t_"):
            rows[name] = np.nan
    rows["end"], rows["kind"], rows["codec"] = end, _KINDS[kind], 1 if example.algorithm == "fedbuff" else 2
    rows["bits"] = 32 if example.algorithm == "fedbuff" else example.bits
    rows["payload_bytes"] = example.payload_bytes
    rows["wire_bytes"] = example.payload_bytes + HEADER_BYTES
    return rows


def _uploads(example: Example, updates: np.ndarray, *, end: int) -> np.ndarray:
    rows = _message_rows(example, len(updates), "update", end=end)
    rows["src"] = updates["client"] + 1
    rows["client"], rows["version"] = updates["client"], updates["start_version"]
    rows["sequence"] = updates["participation"]
    arrival = updates["finish_s"]
    if end == 0:
        rows["t_encode_begin"] = updates["start_s"] + updates["train_seconds"]
        rows["t_encode_end"] = rows["t_post"] = rows["t_encode_begin"] + _ENCODE_S
        rows["t_complete"] = rows["t_matched"] = arrival
    else:
        rows["t_post"], rows["t_complete"] = arrival - _LATENCY_S, arrival
        rows["t_decode_begin"], rows["t_decode_end"] = arrival, arrival + _DECODE_S
    return rows


def _broadcasts(example: Example, steps: np.ndarray, dst: int, *, end: int) -> np.ndarray:
    rows = _message_rows(example, len(steps), "broadcast", end=end)
    rows["dst"] = dst
    rows["version"] = rows["sequence"] = steps["version"] - 1
    sent, arrival = steps["time_s"], steps["time_s"] + _LATENCY_S * (1 + 0.1 * dst)
    if end == 0:
        rows["t_encode_begin"], rows["t_encode_end"], rows["t_post"] = sent - _ENCODE_S, sent, sent
        rows["t_complete"] = rows["t_matched"] = arrival
    else:
        rows["t_post"], rows["t_complete"] = sent - _LATENCY_S, arrival
        rows["t_decode_begin"], rows["t_decode_end"] = arrival, arrival + _DECODE_S
    return rows


def _ranks(example: Example, updates: np.ndarray, steps: np.ndarray) -> np.ndarray:
    rows = np.zeros(example.ranks, dtype=RANKS)
    rows["rank"] = rows["local_rank"] = np.arange(example.ranks)
    rows["host"], rows["device"], rows["device_name"] = b"nowhere", b"cpu", b"made up"
    rows["threads"], rows["version"] = 1, steps["version"][-1]
    uploads = np.bincount(updates["client"], minlength=example.ranks - 1)
    broadcasts = len(steps) - 1
    rows["sent"] = [broadcasts * (example.ranks - 1), *uploads]
    rows["received"] = [len(updates), *([broadcasts] * (example.ranks - 1))]
    return rows


def _memory(steps: np.ndarray) -> np.ndarray:
    """A row a second, as rank 0 writes them by default."""
    rows = np.zeros(int(steps["time_s"][-1]) + 1, dtype=MEMORY)
    rows["time_s"], rows["resident_bytes"] = np.arange(len(rows)), 400 << 20
    return rows


def _clock(example: Example, updates: np.ndarray) -> np.ndarray:
    rows = np.zeros(2 * example.ranks, dtype=CLOCK)
    rows["rank"], rows["sync"] = np.repeat(np.arange(example.ranks), 2), np.tile([0, 1], example.ranks)
    rows["local_s"] = np.where(rows["sync"] == 0, 0.0, updates["finish_s"][-1])
    rows["drift"] = np.where(rows["sync"] == 0, np.nan, 0.0)
    rows["error_bound_s"] = np.where(rows["rank"] == 0, 0.0, 2e-6)
    return rows


def _attributes(example: Example, updates: np.ndarray, steps: np.ndarray) -> dict[str, object]:
    broadcasts, size = len(steps) - 1, example.payload_bytes
    accuracy = steps["accuracy"]
    reached = np.flatnonzero(accuracy >= example.target)
    codec = "identity" if example.algorithm == "fedbuff" else "qsgd"
    bits = 32 if example.algorithm == "fedbuff" else example.bits
    paper = 4.0 * example.parameters if bits == 32 else example.parameters * bits / 8 + 12
    return {
        "schema_version": SCHEMA_VERSION,
        "experiment": example.experiment(),
        "algorithm": example.algorithm,
        "seed": example.seed,
        "driver": "wall",
        "command_line": "qafel-analysis example",
        "git_commit": "",
        "versions": json.dumps({"h5py": h5py.__version__, "numpy": np.__version__}),
        "started": "1970-01-01T00:00:00+00:00",
        "outcome": "made up",
        "host": "nowhere",
        "ranks": example.ranks,
        "clients": example.ranks - 1,
        "parameters": example.parameters,
        "uplink_codec": codec,
        "uplink_bits": bits,
        "downlink_codec": codec,
        "downlink_bits": bits,
        "buffer_size": example.buffer_size,
        "payload_bytes_per_upload": size,
        "payload_bytes_per_broadcast": size,
        "paper_bytes_per_upload": paper,
        "paper_bytes_per_broadcast": paper,
        "uploads": len(updates),
        "server_steps": broadcasts,
        "uploads_to_target": int(steps["uploads"][reached[0]]) if reached.size else -1,
        "accuracy": float(accuracy[-1]),
        "loss": float(steps["loss"][-1]),
        "payload_bytes_up": size * len(updates),
        "payload_bytes_down": size * broadcasts,
        "wire_bytes_up": (size + HEADER_BYTES) * len(updates),
        "wire_bytes_down": (size + HEADER_BYTES) * broadcasts,
        "paper_bytes_up": paper * len(updates),
        "paper_bytes_down": paper * broadcasts,
        "down_links": size * broadcasts * (example.ranks - 1),
        "dropped_messages": 0,
        "rejected_updates": 0,
        "clipped_updates": 0,
        "seconds": float(updates["finish_s"][-1]),
        "virtual_seconds": 0.0,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: a file, and an option for each setting of Example."""
    parser = argparse.ArgumentParser(
        prog="python -m qafel_analysis.example",
        description="Make up a trace of any size, to try and to measure the analysis: nothing was trained.",
    )
    parser.add_argument("out", type=Path, metavar="RUN.h5")
    for setting in fields(Example):
        kind = {str: str, float: float}.get(type(setting.default), int)
        parser.add_argument("--" + setting.name.replace("_", "-"), type=kind, default=setting.default)
    given = vars(parser.parse_args(arguments))
    out = given.pop("out")
    example = Example(**given)
    if example.messages < 1 or example.ranks < 2 or example.algorithm not in ("qafel", "fedbuff"):
        parser.error("at least one message, 2 ranks, and qafel or fedbuff")
    print(write(out, example))


if __name__ == "__main__":
    main()
