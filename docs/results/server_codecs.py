"""Uploads to the target by the server's quantizer: a row a run of the suite biased-server.

python docs/results/server_codecs.py docs/results/findings-server.json RUN.h5...     (record.sh runs it)

δ_s is 1 − the mean of ‖Q(v) − v‖²/‖v‖² over the broadcasts, v being what the server quantizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qafel_analysis.commands.record import of_runs
from qafel_analysis.read.rows import row_of
from qafel_analysis.theory.orders import delta

from qafel_mpi.trace.reader import open_trace


def measured(path: Path) -> dict[str, Any]:
    """One run. delta_s: None where the server quantizes nothing."""
    with open_trace(path) as trace:
        run, steps = row_of(trace), trace.table("steps")
        learning_rate = trace.experiment["client"]["learning_rate"]
    variant, _, _ = path.stem.rpartition("-seed")
    delta_s, _ = delta(steps["quantization_error"], steps["difference_norm"])
    return {
        "variant": variant,
        "seed": run["seed"],
        "learning_rate": learning_rate,
        "target": run["target"],
        "uploads_to_target": run["uploads_to_target"],
        "uploads": run["uploads"],
        "wire_bytes": run["wire_bytes_down"] / run["server_steps"],
        "delta_s": None if run["downlink_codec"] == "identity" else delta_s,
    }


if __name__ == "__main__":
    of_runs("server_codecs", measured)
