"""What codecs make of each tensor of a model: their errors on the updates of a recorded run, tensor by tensor.

python -m docs.results.codec_tensors docs/results/codec-tensors.json RUN.h5 SUITE VARIANT...

The clients of the run send float32; it is replayed for its updates, those of the first server step and of one a tenth
into the run. The codecs are the uplinks of the suite's variants. record.sh runs it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from qafel_analysis.commands.record import write
from qafel_analysis.read import sources
from torch import Tensor

from docs.results.codec_error import updates_of
from qafel_mpi.bench.updates import SEED, relative
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.config import load
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.replay import open_replay
from qafel_mpi.trace.reader import open_trace

MOMENTS = (0.0, 0.1)  # of a run, by its server steps
FIRST = 3  # server steps whose lengths are told one by one


def by_tensor(
    layout: Layout, updates: Sequence[Tensor], codecs: dict[str, CodecConfig]
) -> list[dict[str, Any]]:
    """Of each tensor: its share of ‖u‖², its elements' root mean square, and each codec's error; means over updates.

    The error is ‖Q(u) − u‖²/‖u‖² of the tensor's elements alone, where the codec has had the whole update.
    """
    decoded = {
        name: [_decoded(config, layout, updates, i) for i in range(len(updates))]
        for name, config in codecs.items()
    }
    found = []
    for name, shape, offset, size in zip(
        layout.names, layout.shapes, layout.offsets[:-1], layout.sizes, strict=True
    ):
        own = slice(offset, offset + size)
        energies = [float(update[own].double().square().sum()) for update in updates]
        wholes = [float(update.double().square().sum()) for update in updates]
        found.append(
            {
                "name": name,
                "shape": list(shape),
                "share": fmean(part / whole for part, whole in zip(energies, wholes, strict=True)),
                "root_mean_square": fmean(math.sqrt(energy / size) for energy in energies),
                "errors": {
                    codec: fmean(relative(got[own], u[own]) for got, u in zip(each, updates, strict=True))
                    for codec, each in decoded.items()
                },
            }
        )
    return found


def _decoded(config: CodecConfig, layout: Layout, updates: Sequence[Tensor], number: int) -> Tensor:
    codec = build(config, layout)
    payload = np.empty(codec.payload_bytes(), dtype=np.uint8)
    key = derive(SEED, Stream.EVALUATION, 0, number)
    size = codec.encode(updates[number], payload, key)
    out = torch.empty(layout.elements)
    codec.decode(payload[:size], out, key)
    return out


def measured(path: Path, codecs: dict[str, CodecConfig]) -> dict[str, Any]:
    """Of one run: how long its server steps are, and what the codecs make of its updates."""
    with open_replay(
        path, anyway=True
    ) as replay:  # of other versions too: the digests tell whether it matters
        layout = replay.setup.task.layout
        batches, about = updates_of(replay, MOMENTS)
        if replay.differences:
            raise SystemExit(f"{path}: its updates can't be had here: {replay.differences[0]}")
    with open_trace(path) as trace:
        lengths = [float(one) for one in trace.table("steps")["step_norm"] if math.isfinite(one)]
    return {
        "elements": layout.elements,
        "step_norms": {"first": lengths[:FIRST], "median_after": median(lengths[FIRST:])},
        "payload_bytes": {name: build(config, layout).payload_bytes() for name, config in codecs.items()},
        "moments": [
            one | {"tensors": by_tensor(layout, batch, codecs)}
            for one, batch in zip(about, batches, strict=True)
        ],
    }


def main() -> None:
    out, run, suite, *variants = sys.argv[1:]
    codecs = {name: load(suite, variant=name).uplink for name in variants}
    write(Path(out), "codec_tensors", measured(Path(run), codecs), [sources.source(Path(run))])


if __name__ == "__main__":
    main()
