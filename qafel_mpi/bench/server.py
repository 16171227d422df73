"""What the server's own work costs in one process: uploads received, and the steps that they complete.

receive: an upload is decoded and added to the buffer, the mean over the K of a step. step: the optimizer moves x, q^t
is encoded, x̂ follows, and the three norms of the trace are taken. both: K uploads and their step. References are
memory passes with the same reads and writes, in turns with ours: for receive K of them over one buffer, of which the
first only writes it, so that it lies in the caches as far as ours does. `copies` is our time in copies of the vector.
With rules, a codec a tensor, the same server without them takes turns with ours; `over_plain` is our time over its.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil
from time import perf_counter

import numpy as np
import torch

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.bench.measuring.passes import Passes
from qafel_mpi.bench.measuring.result import MEMORY_PASS, Row
from qafel_mpi.bench.measuring.timing import Case, Limits, interleave
from qafel_mpi.codecs import Codec, Layout, build
from qafel_mpi.codecs.measure import contraction_warning
from qafel_mpi.config import ConfigError, Experiment, load
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import vector, zeros
from qafel_mpi.tasks.models.vectors import VECTORS

OPERATIONS = ("receive", "step", "both")
BYTES_PER_ELEMENT = 60  # of all vectors, ours and the passes'
SEED = 0
LEAST_SECONDS = 200e-6  # of a sample: as many steps are taken


@dataclass(frozen=True)
class Point:
    """One server. algorithm: a preset. K: its buffer. settings: more of an experiment's, KEY=VALUE."""

    algorithm: str
    d: int
    buffer: int
    threads: int
    settings: tuple[str, ...] = ()

    def experiment(self) -> Experiment:
        """Of the digits' settings. Raises ConfigError."""
        own = [f"algorithm={self.algorithm}", f"server.buffer_size={self.buffer}", *self.settings]
        return load("digits", own)

    def without_rules(self) -> Point | None:
        """The same server with one codec a direction; None where it has no rules."""
        e = self.experiment()
        if not (e.uplink.rules or e.downlink.rules):
            return None
        return replace(self, settings=(*self.settings, "uplink.rules=[]", "downlink.rules=[]"))


def layout_of(elements: int) -> Layout:
    """Of one tensor, but for the sizes of VECTORS: those are networks' own tensors, which rules tell apart."""
    known = {made.elements: made for made in (make() for make in VECTORS.values())}
    return known.get(elements, Layout(("weight",), ((1, elements),)))


def rows(points: Sequence[Point], limits: Limits) -> Iterator[Row]:
    """Three rows of each point."""
    for point in points:
        yield from Work(point).rows(limits)


class Work:
    """A server, K uploads that it is handed again and again, and vectors for the passes.

    Raises ConfigError where x̂ would run away from x.
    """

    def __init__(self, point: Point):
        torch.set_num_threads(point.threads)
        e, d = point.experiment(), point.d
        self.point, self.k = point, e.server.buffer_size
        layout = layout_of(d)
        self.uplink, self.downlink = (build(c, layout, threads=point.threads) for c in (e.uplink, e.downlink))
        self.assigns = e.downlink.mode != "hidden" or self.downlink.name == "identity"
        if not self.assigns and (warning := contraction_warning(self.downlink)):
            raise ConfigError([f"bench server: downlink: {warning}"])
        x0 = vector(d, torch.float32).normal_(generator=torch.Generator().manual_seed(SEED))
        replica = Replica(x0, self.downlink, assigns=self.assigns)
        self.server = Server(x0, self.uplink, replica, e.server, e.staleness, seed=SEED, clients=self.k)
        self.updates = [self._update(client, x0) for client in range(self.k)]
        self.out = _zeros_bytes(self.downlink)
        self.passes_up, self.passes_down = (
            Passes(d, codec.payload_bytes(), point.threads) for codec in (self.uplink, self.downlink)
        )
        self.x, self.other = x0, zeros(d)
        states = 1 + len(self.server.optimizer.state()) + (not self.assigns)
        self.moved = tuple(zeros(d).numpy() for _ in range(states))
        self.written = self.other.numpy()[: d if self.assigns else 0]
        self.loops = 1

    def _update(self, client: int, x0: torch.Tensor) -> Update:
        payload, key = _zeros_bytes(self.uplink), derive(SEED, Stream.UPLINK, client, 0)
        if self.uplink.shared:
            key = derive(SEED, Stream.ROTATION)
        size = self.uplink.encode(x0 if client % 2 else -x0, payload, key)  # so that x stays where it is
        return Update(client, 0, payload[:size], key)

    def rows(self, limits: Limits) -> Iterator[Row]:
        wrong = self.wrong()
        self.cycle(1)  # once for the caches, once to count
        self.loops = max(1, ceil(LEAST_SECONDS / max(sum(self.cycle(1)), 1e-7)))
        receive_passes = self._timed(self._receive_passes)
        cases: dict[str, Case] = {
            "receive": lambda: self.cycle(self.loops)[0] / self.k,
            "step": lambda: self.cycle(self.loops)[1],
            "both": lambda: sum(self.cycle(self.loops)),
            "receive pass": lambda: receive_passes() / self.k,
            "step pass": self._timed(self._step_pass),
            "both pass": self._timed(self._both_pass),
            "copy": self._timed(lambda: self.other.copy_(self.x)),
        }
        if (plain_point := self.point.without_rules()) is not None:
            plain = Work(plain_point)
            plain.cycle(1)
            cases |= {
                "plain receive": lambda: plain.cycle(self.loops)[0] / self.k,
                "plain step": lambda: plain.cycle(self.loops)[1],
                "plain both": lambda: sum(plain.cycle(self.loops)),
            }
        samples = interleave(cases, limits, loops=self.loops)
        about = {"algorithm": self.point.algorithm, "d": self.point.d, "buffer": self.k}
        for operation in OPERATIONS:
            ours = samples[operation]
            derived = {"copies": float(np.median(ours.values / samples["copy"].values))}
            if plain_point is not None:
                times_plain = ours.values / samples[f"plain {operation}"].values
                derived["over_plain"] = float(np.median(times_plain))
            yield Row(
                "server",
                {"operation": operation} | about | {"threads": self.point.threads},
                ours,
                samples[f"{operation} pass"],
                MEMORY_PASS,
                self.traffic(operation),
                wrong,
                derived=derived,
            )

    def cycle(self, count: int) -> tuple[float, float]:
        """Seconds of K uploads received, and of a step: the mean over `count` in turns."""
        server, received_s, stepped_s = self.server, 0.0, 0.0
        for _ in range(count):
            updates = [update._replace(start_version=server.version) for update in self.updates]
            begun = perf_counter()
            for update in updates:
                server.receive(update)
            received = perf_counter()
            server.step(self.out)
            stepped_s += perf_counter() - received
            received_s += received - begun
        return received_s / count, stepped_s / count

    def traffic(self, operation: str) -> float:
        """Bytes that must be read and written at least; with `receive` an upload's, the mean of K."""
        # The first of K is assigned to the buffer, which isn't read.
        receive = (8.0 - 4.0 / self.k) * self.point.d + self.updates[0].payload.size
        vectors = 1 + 2 * len(self.moved) + self.assigns
        step = 4.0 * vectors * self.point.d + self.out.size
        return {"receive": receive, "step": step, "both": self.k * receive + step}[operation]

    def wrong(self) -> int:
        """Bytes of x, x̂ and q^t that the step in one pass makes otherwise than its parts one after the other."""
        found = []
        for follow in (self.downlink.move_and_encode, self.downlink.move_then_encode):
            server, out = self._again(), _zeros_bytes(self.downlink)
            server.receive(self.updates[0])
            motion = server._motion()
            follow(motion, server.x_hat.numpy(), out, 1, assigns=self.assigns, measure=True)
            found.append([server.x.numpy().view(np.uint8), server.x_hat.numpy().view(np.uint8), out])
        return sum(int((one != other).sum()) for one, other in zip(*found, strict=True))

    def _again(self) -> Server:
        """A server like ours at its beginning."""
        s = self.server
        replica = Replica(self.x, self.downlink, assigns=self.assigns)
        staleness = self.point.experiment().staleness
        return Server(self.x, self.uplink, replica, s.config, staleness, seed=SEED, clients=self.k)

    def _timed(self, operation: Callable[[], object]) -> Case:
        def case() -> float:
            begun = perf_counter()
            for _ in range(self.loops):
                operation()
            return (perf_counter() - begun) / self.loops

        return case

    def _receive_passes(self) -> None:
        buffer = self.other.numpy()
        self.passes_up.decode(buffer)
        for _ in range(self.k - 1):
            self.passes_up.decode_accumulate(buffer)

    def _step_pass(self) -> None:
        self.passes_down.server_step(self.x.numpy(), self.moved, self.written)

    def _both_pass(self) -> None:
        self._receive_passes()
        self._step_pass()


def _zeros_bytes(codec: Codec) -> np.ndarray:
    return zeros(codec.payload_bytes(), torch.uint8).numpy()
