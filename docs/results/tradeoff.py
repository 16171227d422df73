"""Uploads to the target by the measured error of both quantizers: a row a run of the suite tradeoff.

python docs/results/tradeoff.py docs/results/findings-tradeoff.json RUN.h5...     (record.sh runs it)

δ_c is 1 − the mean of ‖Q(v) − v‖²/‖v‖² over the uploads, δ_s the same over the broadcasts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qafel_analysis.commands.record import of_runs
from qafel_analysis.read.rows import row_of
from qafel_analysis.theory.orders import delta

from qafel_mpi.trace.reader import open_trace


def measured(path: Path) -> dict[str, Any]:
    """One run. Raises SystemExit where it has no encoding errors."""
    with open_trace(path) as trace:
        run, steps, encodings = row_of(trace), trace.table("steps"), trace.table("encodings")
    delta_c, _ = delta(encodings["quantization_error"], encodings["norm"])
    delta_s, _ = delta(steps["quantization_error"], steps["difference_norm"])
    if run["uplink_codec"] == "identity":
        delta_c = 1.0
    if run["downlink_codec"] == "identity":
        delta_s = 1.0
    if delta_c is None or delta_s is None:
        raise SystemExit(f"{path}: no encoding errors; run it with --set trace.encoding_error=true")
    variant, _, _ = path.stem.rpartition("-seed")
    return {
        "variant": variant,
        "seed": run["seed"],
        "uplink": run["uplink_codec"],
        "downlink": run["downlink_codec"],
        "uploads_to_target": run["uploads_to_target"],
        "uploads": run["uploads"],
        "delta_c": delta_c,
        "delta_s": delta_s,
        "upload_bytes": run["payload_bytes_up"] / run["uploads"],
        "broadcast_bytes": run["payload_bytes_down"] / run["server_steps"],
        "buffer_size": run["buffer_size"],
    }


if __name__ == "__main__":
    of_runs("tradeoff", measured)
