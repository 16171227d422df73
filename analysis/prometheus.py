"""How a run goes on, for node-exporter's textfile collector: a file in Prometheus' text format.

Names follow Prometheus' conventions: base units, `_total` for counters. What is not known is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qafel_analysis.watch import Progress

from qafel_mpi.outputs import whole

SUFFIX = ".prom"  # the collector reads no other files
Sample = tuple[Mapping[str, str], float | None]  # labels, value


@dataclass(frozen=True)
class Metric:
    """A metric: its name, whether it only grows, what it says, and its samples."""

    name: str
    kind: str  # counter or gauge
    meaning: str
    samples: tuple[Sample, ...]

    def lines(self) -> list[str]:
        """[] where no sample has a value."""
        known = [(labels, v) for labels, v in self.samples if v is not None and not math.isnan(v)]
        if not known:
            return []
        head = [f"# HELP {self.name} {self.meaning}", f"# TYPE {self.name} {self.kind}"]
        return head + [f"{self.name}{_labels(labels)} {_number(value)}" for labels, value in known]


def _labels(labels: Mapping[str, str]) -> str:
    """
    >>> _labels({"run": 'a "b"'})
    '{run="a \\\\"b\\\\""}'
    """
    texts = (
        f'{name}="' + value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") + '"'
        for name, value in labels.items()
    )
    return "{" + ",".join(texts) + "}"


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value))


def metrics(now: Progress) -> list[Metric]:
    """All that is known of a run at this moment."""
    run = {"run": _name(now.run)}

    def one(name: str, kind: str, meaning: str, value: float | None) -> Metric:
        return Metric(f"qafel_run_{name}", kind, meaning, ((run, value),))

    def each(name: str, kind: str, meaning: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
        return Metric(f"qafel_{name}", kind, meaning, tuple((run | {label: k}, v) for k, v in values))

    up_down = (("up", float(now.payload_bytes_up)), ("down", float(now.payload_bytes_down)))
    ranks = sorted(now.ranks, key=lambda one: one.rank)
    return [
        one("active", "gauge", "1 while the run goes on, 0 when it has ended.", float(now.outcome is None)),
        one("elapsed_seconds", "gauge", "Real time since the run began.", now.elapsed_s),
        one("virtual_seconds", "gauge", "Virtual time since the run began.", now.virtual_seconds),
        one("uploads_total", "counter", "Updates that the server has received.", now.uploads),
        one("server_steps_total", "counter", "Server steps.", now.server_steps),
        one("accuracy_ratio", "gauge", "Last test accuracy, from 0 to 1.", now.accuracy),
        one("loss", "gauge", "Last loss on the test set.", now.loss),
        each(
            "run_payload_bytes_total", "counter", "Payload sent; a broadcast counts once.", "direction", up_down
        ),
        one("wire_bytes_total", "counter", "Payload and headers sent; a broadcast counts once.", now.wire_bytes),
        one("uploads_per_second", "gauge", "Updates received, over the last 30 s.", now.uploads_per_second),
        one("payload_bytes_per_second", "gauge", "Payload sent, over 30 s.", now.payload_bytes_per_second),
        one("staleness_versions", "gauge", "Mean staleness of all updates.", now.mean_staleness),
        one("resident_memory_bytes", "gauge", "Resident memory of rank 0.", now.resident_bytes),
        one("dropped_messages_total", "counter", "Messages that failed the check.", now.dropped_messages),
        each("run_faults_total", "counter", "Faults that ranks noticed.", "kind", sorted(now.faults.items())),
        each(
            "run_left_seconds", "gauge", "Time left until a budget is used up or a target may be reached.", "until",
            ((one.what, one.seconds) for one in now.left),
        ),
        each(
            "rank_uploads_total", "counter", "Updates that rank 0 has received of a rank.", "rank",
            ((str(one.rank), one.uploads) for one in ranks),
        ),
        each(
            "rank_silent_seconds", "gauge", "Time since the last update of a rank, at the last one of any.", "rank",
            ((str(one.rank), one.silent_s) for one in ranks),
        ),
    ]  # fmt: skip


def _name(path: str) -> str:
    """One name while there are shards and when there is a trace. What is not UTF-8 no label may have.

    >>> _name("runs/a.shards"), _name("runs/a.h5")
    ('runs/a', 'runs/a')
    """
    return str(Path(path).with_suffix("")).encode("utf-8", "backslashreplace").decode()


def text(now: Progress) -> str:
    """The file's content: of every metric its meaning, its type and its samples."""
    return "\n".join(line for metric in metrics(now) for line in metric.lines()) + "\n"


def write(now: Progress, file: Path) -> None:
    """Put the run's metrics into the file, at once: the collector never sees half of them. Raises OSError."""
    with whole(file) as part:
        part.write_text(text(now), encoding="utf-8")
