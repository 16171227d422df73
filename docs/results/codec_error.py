"""Every codec's error on the updates of recorded runs, at so many bytes on the wire.

python docs/results/codec_error.py docs/results/codec-error.json RUN.h5...     (record.sh runs it)

The runs' clients send float32, so that a payload is the update itself; each run is replayed to get them. Of each run
it takes the uploads of three server steps: the first, one a quarter into the run and one in its middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qafel_analysis.commands.record import of_runs
from torch import Tensor

from qafel_mpi.bench.updates import errors
from qafel_mpi.replay import Replay, open_replay

MOMENTS = (0.0, 0.25, 0.5)  # of a run, by its server steps


def updates_of(
    replay: Replay, moments: Sequence[float] = MOMENTS
) -> tuple[list[list[Tensor]], list[dict[str, Any]]]:
    """The uploads of the step at each moment, and which they are."""
    last = replay.recorded.steps - 1
    batches: list[list[Tensor]] = []
    about = []
    for version in sorted({round(moment * last) for moment in moments}):
        replay.run(version=version)
        batch, clients, first = [], [], replay.next
        while (upload := replay.next) is not None and replay.version == version:
            batch.append(replay.decoded(upload))
            clients.append(upload.client)
            replay.step()
        assert first is not None, f"no uploads at version {version}"
        batches.append(batch)
        about.append(
            {"step": version, "upload": first.number, "updates": len(batch), "clients": len(set(clients))}
        )
    return batches, about


def measured(path: Path) -> dict[str, Any]:
    """What the codecs make of one run's updates."""
    with open_replay(
        path, anyway=True
    ) as replay:  # of other versions too: the digests tell whether it matters
        experiment, layout = replay.recorded.experiment, replay.setup.task.layout
        if experiment.uplink.codec != "identity":
            raise SystemExit(
                f"{path}: its clients send {experiment.uplink.codec}; take a run that sends float32"
            )
        batches, about = updates_of(replay)
        if replay.differences:
            raise SystemExit(f"{path}: its updates can't be had here: {replay.differences[0]}")
        return {
            "dataset": experiment.task.dataset,
            "model": experiment.task.model,
            "elements": layout.elements,
            "run_steps": replay.recorded.steps,
            "moments": about,
            "codecs": [asdict(one) for one in errors(layout, batches)],
        }


if __name__ == "__main__":
    of_runs("codec_error", measured)
