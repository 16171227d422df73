"""What a replay found: the same bits, or the first upload that differs."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from qafel_mpi.drivers.replay.compare import Difference
from qafel_mpi.drivers.replay.walk import Replay
from qafel_mpi.trace.merge import digest


@dataclass(frozen=True)
class Verdict:
    """The result of a replay. outcome: "the same", "the same so far", "differs" or "interrupted".

    compared: uploads whose payload was compared; whole: the replay went to the run's end. x_same, x_hat_same: None
    where they were not compared. x_apart: the largest difference of an element of x. first: the first upload that
    differs. differing: how many do. others_same, others_differ: of the uploads that were trained and not handed in
    when the replay stopped at one that differs, by rank. slips: uploads of which the first training here gave other
    bits, and a further one the recorded ones; slip_text: the first of them.
    """

    outcome: str
    trace: str
    uploads: int
    server_steps: int
    compared: int
    whole: bool
    x_digest: str
    x_hat_digest: str
    x_same: bool | None
    x_hat_same: bool | None
    x_apart: float | None
    first: dict[str, Any] | None
    first_text: str
    differing: int
    others_same: dict[str, int] = field(default_factory=dict)
    others_differ: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    updates_per_s: float = 0.0
    ranks: int = 1
    out: str = ""
    slips: int = 0
    slip_text: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome == "differs"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def of_json(text: str) -> Verdict:
        return Verdict(**json.loads(text))


def verdict(replay: Replay, *, seconds: float, ranks: int, out: str, interrupted: bool) -> Verdict:
    """Of a replay that has gone as far as it was to go."""
    recorded, server = replay.recorded, replay.server
    stopped = bool(replay.differences) and not replay.ended
    x, x_hat = _compared(recorded.x, server.x, replay), _compared(recorded.x_hat, server.x_hat, replay)
    others = replay.others() if stopped and recorded.has_digests else []
    same, differ = (
        {str(rank): n for rank, n in sorted(Counter(r for _, r, ok in others if ok == wanted).items())}
        for wanted in (True, False)
    )
    first = replay.differences[0] if replay.differences else None
    return Verdict(
        outcome=_outcome(replay, x, x_hat, first, interrupted),
        trace=str(recorded.path),
        uploads=replay.at,
        server_steps=server.version,
        compared=replay.at if recorded.has_digests else 0,
        whole=replay.ended,
        x_digest=digest(server.x.numpy()),
        x_hat_digest=digest(server.x_hat.numpy()),
        x_same=x,
        x_hat_same=x_hat,
        x_apart=None if x is None else _apart(recorded.x, server.x),
        first=None if first is None else first.to_json(),
        first_text="" if first is None else str(first),
        differing=len(replay.differences),
        others_same=same,
        others_differ=differ,
        seconds=seconds,
        updates_per_s=replay.at / seconds if seconds else 0.0,
        ranks=ranks,
        out=out,
        slips=len(replay.slips),
        slip_text=str(replay.slips[0]) if replay.slips else "",
    )


def _compared(then: np.ndarray | None, now: Tensor, replay: Replay) -> bool | None:
    if then is None or not replay.ended:
        return None
    return then.shape == tuple(now.shape) and then.tobytes() == now.numpy().tobytes()


def _apart(then: np.ndarray | None, now: Tensor) -> float | None:
    if then is None or then.shape != tuple(now.shape):
        return None
    found = float(np.abs(then - now.numpy()).max())
    return found if np.isfinite(found) else None


def _outcome(
    replay: Replay, x: bool | None, x_hat: bool | None, first: Difference | None, interrupted: bool
) -> str:
    if first is not None or x is False or x_hat is False:
        return "differs"
    if interrupted:
        return "interrupted"
    return "the same" if replay.ended else "the same so far"
