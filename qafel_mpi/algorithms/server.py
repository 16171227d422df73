"""Algorithm 1 of QAFeL: the buffered server (arXiv 2308.00263), and with it the whole family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qafel_mpi.algorithms.bounds import CLIPPED, REJECTED, WRAPPED, Finding, Rejected, factor
from qafel_mpi.algorithms.calibration import Calibration
from qafel_mpi.algorithms.client import Replica, shared_key
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.optimizers import OPTIMIZERS, delayed_rate
from qafel_mpi.algorithms.weights import staleness_weight
from qafel_mpi.codecs.base import Codec, PayloadError
from qafel_mpi.codecs.near import NearCodec, decode_near
from qafel_mpi.kernels.keys import Stream, counted, derive, of_owner
from qafel_mpi.kernels.memory import copy_of, vector, vector_like
from qafel_mpi.kernels.numba.floats import all_finite
from qafel_mpi.kernels.numba.moving import Motion, Mover, Norms
from qafel_mpi.kernels.numba.norms import distance, norm
from qafel_mpi.kernels.state import State, restore_array

# Unicast downloads draw from the downlink's stream too; a broadcast's owner is the server itself.
SERVER = 2**32 - 1


class Update(NamedTuple):
    """An upload as it reaches the server. payload: uint8, a view that the server reads once.

    train_seconds: of the run's clock; who hands the update in has read it.
    """

    client: int
    start_version: int
    payload: np.ndarray
    key: int
    examples: int = 1
    train_seconds: float = 0.0


class Weighed(NamedTuple):
    """What an update counts: s(τ), w, and its τ."""

    s: float
    n: float
    tau: int


class Step(NamedTuple):
    """What one server step t -> t+1 made. The norms are nan unless they were asked for."""

    version: int  # t + 1
    key: int  # of q^t's random numbers
    payload_bytes: int
    step_norm: float = float("nan")  # ‖x^{t+1} − x^t‖₂
    difference_norm: float = float("nan")  # ‖v‖₂ of the v that Q_s was applied to
    gap: float = float("nan")  # ‖x^{t+1} − x̂^{t+1}‖₂, which is also ‖Q_s(v) − v‖₂
    wrapped: int = 0  # parts of q^t that were too far from what x̂ took them for (NearCodec)


class Server:
    """The state machine: `receive` uploads until `full`, then `step`; where it is `quorate`, who has a clock may step
    earlier.

    x: (d,) the model x^t. replica: the hidden state x̂^t that it shares with the clients. clients: how many
    there are (used by reduction = "clients" alone). Reads no clock, rank or file.
    """

    def __init__(
        self,
        x0: Tensor,
        uplink: Codec,
        replica: Replica,
        server: ServerConfig,
        staleness: StalenessConfig,
        *,
        seed: int,
        clients: int,
    ):
        self.x = copy_of(x0)
        self.replica = replica
        self.uplink = uplink
        self.config = server
        self.weight = staleness_weight(staleness)
        self.seed = seed
        self._broadcasts = of_owner(seed, Stream.DOWNLINK, SERVER)  # all but the version of their keys
        self.clients = clients
        self.optimizer = OPTIMIZERS[server.optimizer](server, self.x)
        self._buffer = vector(uplink.sum_elements, self.x.dtype)
        self._x, self._x_hat, self._sums = self.x.numpy(), replica.x_hat.numpy(), self._buffer.numpy()
        # Whether what the buffer holds was used, or is nothing yet: the next upload is assigned to it, not added.
        self._spent = True
        self._mover = Mover(self.x.numel(), torch.get_num_threads())
        self.shared_key = shared_key(seed)
        self.calibration = Calibration(self.x, clients) if server.calibration == "clients" else None
        self.filled = 0
        self.uploads = 0
        self._weights = 0.0  # Σ w_i
        self._coefficients = (
            0.0  # Σ w_i s(τ_i) c_i, for update = "model"; c_i < 1 where an update was clipped
        )
        self._stalest = 0  # largest τ in the buffer
        self.findings: list[Finding] = []  # of the updates received last
        self._bounded = server.clip_norm is not None or server.reject_norm is not None
        self._scratch: Tensor | None = None
        # Models that are decoded near the server's own.
        self._wraps = isinstance(uplink, NearCodec)
        self.near = self._wraps and server.update == "model"

    @property
    def version(self) -> int:
        return self.replica.version

    @property
    def buffer(self) -> Tensor:
        """Σ w_i s(τ_i) u_i since the last step: (d,), or what the uplink's sums are."""
        if self._spent:
            self._buffer.zero_()
            self._spent = False
        return self._buffer

    @property
    def room(self) -> int:
        """Uploads that the buffer still takes; before its quorum those that this lacks."""
        quorum = self.config.quorum
        wanted = self.config.buffer_size if quorum is None or self.filled >= quorum else quorum
        return wanted - self.filled

    @property
    def quorate(self) -> bool:
        """Whether a step may be made once the grace window has passed, although the buffer is not full."""
        quorum = self.config.quorum
        return quorum is not None and quorum <= self.filled < self.config.buffer_size

    @property
    def full(self) -> bool:
        return self.filled >= self.config.buffer_size

    def receive(self, update: Update) -> float:
        """Algorithm 1: buffer += s(τ) · u. Returns the weight s(τ); 0 where the update was not used.

        A synchronous server uses nothing of earlier rounds, and an update with s(τ) = 0 takes no place in the buffer.
        Nothing of an update reaches the buffer that can't be decoded to finite numbers, or has too large a norm:
        `findings` has it then, and one that was clipped. Raises ValueError where an update claims to start from a
        version that does not exist yet.
        """
        if self.findings:
            self.findings = []
        return self._receive(0, update)

    def receive_all(self, updates: Sequence[Update]) -> list[float]:
        """`receive` of each, in this order, with the same bits; the buffer may be full after the last, not before.

        Where it raises, none of them was received.
        """
        if len(updates) == 1:  # without the lists, in half the time beside the decoding
            return [self.receive(updates[0])]
        if self.findings:
            self.findings = []
        weighed = [self._weigh(update) for update in updates]
        if self._bounded or self._wraps:
            return [self._receive(i, update) for i, update in enumerate(updates)]
        used = [(i, w.s * w.n) for i, w in enumerate(weighed) if w is not None]
        if used:
            try:
                self._add([updates[i] for i, _ in used], [c for _, c in used])
            except PayloadError:  # of one of them at least; the others are as good as ever
                return [self._receive(i, update) for i, update in enumerate(updates)]
            if self.uplink.clips:
                for i, _ in used:
                    self._note_clipped(i, updates[i])
        return [self._count(w) for w in weighed]

    def _receive(self, index: int, update: Update) -> float:
        weighed, clip = self._weigh(update), 1.0
        if weighed is not None:
            try:
                if self._bounded:
                    clip = self._clip(index, update)
                before = self.uplink.wrapped
                self._add([update], [weighed.s * weighed.n * clip])
                if parts := self.uplink.wrapped - before:
                    why = f"buckets: {parts}; raise uplink.bits or uplink.spacing"
                    self.findings.append(Finding(index, WRAPPED, why))
                if self.uplink.clips:
                    self._note_clipped(index, update)
            except (PayloadError, Rejected) as error:
                self.findings.append(Finding(index, REJECTED, str(error)))
                weighed = None
        return self._count(weighed, clip)

    def _note_clipped(self, index: int, update: Update) -> None:
        if clipped := self.uplink.clipped(update.payload):
            why = f"elements beyond the codec's range: {clipped}; raise uplink.spacing or uplink.bits"
            self.findings.append(Finding(index, CLIPPED, why))

    def _clip(self, index: int, update: Update) -> float:
        """c of an update whose norm is looked at. Raises PayloadError and Rejected."""
        u = self._aside()
        if self.near:
            decode_near(self.uplink, update.payload, self.x, u, update.key)
        else:
            self.uplink.decode(update.payload, u, update.key)
        size = distance(u, self.x) if self.config.update == "model" else norm(u)
        clip, why = factor(self.config, size)
        if why:
            self.findings.append(Finding(index, CLIPPED, why))
        return clip

    def _add(self, updates: list[Update], coefficients: list[float]) -> None:
        """buffer += Σ coefficient · u, or u − h with calibration."""
        if self.calibration is not None:
            self._add_differences(updates, self.calibration)
        elif self.near:
            self._add_near(updates[0], coefficients[0])  # one at a time: see receive_all
        elif len(updates) == 1 and not self.uplink.own_sums:
            (u,) = updates
            if self._spent:
                self.uplink.start_sum(u.payload, self._buffer, coefficients[0], u.key)
                self._spent = False
            else:
                self.uplink.accumulate(u.payload, self._buffer, coefficients[0], u.key)
        else:
            payloads, keys = [u.payload for u in updates], [u.key for u in updates]
            self.uplink.sum_all(payloads, self.buffer, coefficients, keys)

    def _add_near(self, update: Update, coefficient: float) -> None:
        """buffer += coefficient · y, decoded near x^t."""
        y = self._aside()
        decode_near(self.uplink, update.payload, self.x, y, update.key)
        self.buffer.add_(y, alpha=coefficient)

    def _add_differences(self, updates: list[Update], calibration: Calibration) -> None:
        """buffer += u_i − h_i, h_i ← u_i, one after the other: a client may be among them twice."""
        for u in updates:
            self.uplink.checked(u.payload, self.x, u.key)  # where one is refused, none is remembered
        for u in updates:
            before = calibration.swap(u.client, u.payload, u.key)
            terms = [(u.payload, 1.0, u.key)] + ([] if before is None else [(before[0], -1.0, before[1])])
            payloads, signs, keys = zip(*terms, strict=True)
            self.uplink.sum_all(payloads, self.buffer, signs, keys)

    def _weigh(self, update: Update) -> Weighed | None:
        """An update's s(τ), w and τ; None where it is not used: of an earlier round, or with s(τ) = 0.

        Raises ValueError.
        """
        tau = self.version - update.start_version
        if tau < 0:
            raise ValueError(
                f"update of client {update.client} starts from version {update.start_version}, "
                f"the server is at {self.version}"
            )
        if self.uplink.shared and update.key != self.shared_key:
            raise ValueError(f"update of client {update.client} was not rotated by the run's key")
        if tau and self.config.synchronous:
            return None
        if (s := self.weight(tau, update.train_seconds)) == 0:
            return None
        return Weighed(s, float(update.examples) if self.config.weighting == "examples" else 1.0, tau)

    def _count(self, weighed: Weighed | None, clip: float = 1.0) -> float:
        """One upload more. Returns its s(τ); 0 where it was not used."""
        self.uploads += 1
        if weighed is None:
            return 0.0
        s, n, tau = weighed
        self.filled += 1
        self._stalest = max(self._stalest, tau)
        self._weights += n
        self._coefficients += s * n * clip
        return s

    def step(self, out: np.ndarray | None, *, measure: bool = True) -> Step:
        """Algorithm 1: x^{t+1}, q^t = Q_s(x^{t+1} − x̂^t) written to out, x̂^{t+1} = x̂^t + decode(q^t).

        out: uint8, at least the downlink's payload_bytes(); None with unicast delivery, where nothing is
        published and x̂ stands for x itself. measure: also take the norms.
        A partly filled buffer is allowed: that is the flush at the end of an epoch. Raises NonFiniteError where the
        updates' sum is not finite, and then x is as it was, or where what is to be quantized is not.
        """
        motion = self._motion()
        self._clear()
        key = counted(self._broadcasts, self.version)
        before = self.replica.downlink.wrapped
        payload_bytes, norms = self._publish(motion, out, key, measure)
        made = (
            Step(self.version, key, payload_bytes, *norms)
            if measure
            else Step(self.version, key, payload_bytes)
        )
        parts = self.replica.downlink.wrapped - before
        return made._replace(wrapped=parts) if parts else made

    def download(self, out: np.ndarray, *, client: int, participation: int) -> tuple[int, int]:
        """Unicast: Q_s(x^t) for one client that starts, quantized afresh. Returns (payload bytes, key)."""
        key = derive(self.seed, Stream.DOWNLINK, client, participation)
        return self.replica.downlink.encode(self.x, out, key), key

    @property
    def x_hat(self) -> Tensor:
        return self.replica.x_hat

    def state(self) -> State:
        """All that Algorithm 1 has become: x, x̂, buffer and optimizer as views, and the clients' last updates."""
        return {
            "x": self.x.numpy(),
            "replica": self.replica.state(),
            "optimizer": self.optimizer.state(),
            "buffer": self.buffer.numpy(),
            "filled": self.filled,
            "uploads": self.uploads,
            "weights": self._weights,
            "coefficients": self._coefficients,
            "stalest": self._stalest,
            "calibration": {} if self.calibration is None else self.calibration.state(),
        }

    def restore(self, state: State) -> None:
        """Go on from the state of a server of the same settings. Raises ValueError where it does not fit."""
        restore_array(self.x.numpy(), state["x"])
        self.replica.restore(state["replica"])
        self.optimizer.restore(state["optimizer"])
        restore_array(self.buffer.numpy(), state["buffer"])
        self.filled, self.uploads = int(state["filled"]), int(state["uploads"])
        self._weights, self._coefficients = float(state["weights"]), float(state["coefficients"])
        self._stalest = int(state["stalest"])
        if self.calibration is not None:
            self.calibration.restore(state["calibration"])

    def _motion(self) -> Motion:
        """x^t -> x^{t+1}. Raises NonFiniteError: each update is finite, their sum may be too large for a float."""
        total = self.uplink.resolve(self.buffer, self.shared_key)
        factor, zero = 1.0, -0.0
        if self.calibration is not None:
            total = self._calibrated(total, self.calibration)
        else:
            factor, zero = 1.0 / self._divisor(), 0.0
            if self.config.update == "model":
                total.add_(self.x, alpha=-self._coefficients)
        # A view costs a microsecond: those that are always the same were made once.
        sums = self._sums if total is self._buffer else total.numpy()
        if not all_finite(sums if factor <= 1 else sums * factor):
            self.uplink.refuse(total * factor)
        rate = delayed_rate(self.config, self._stalest)
        return self.optimizer.motion(self._x, sums, factor=factor, zero=zero, rate=rate)

    def _divisor(self) -> float:
        if self.config.reduction == "sum":
            return 1.0
        if self.config.reduction == "with-server":
            return self._weights + 1.0
        return float(self.clients) if self.config.reduction == "clients" else self._weights

    def _calibrated(self, total: Tensor, calibration: Calibration) -> Tensor:
        """v = h + (1/n) Σ (u_i − h_i), h from before the buffer's updates."""
        direction = calibration.mean.add(total, alpha=1.0 / self._divisor())
        calibration.moved(total)
        return direction

    def _publish(self, motion: Motion, out: np.ndarray | None, key: int, measure: bool) -> tuple[int, Norms]:
        """x moves, and x̂ follows. Returns (payload bytes, norms)."""
        assigns = self.replica.assigns
        if out is None:
            moved, difference = self._mover.move(motion), float("nan")
            if measure:
                difference = norm(self.x) if assigns else distance(self.x, self.x_hat)
            self.x_hat.copy_(self.x)
            payload_bytes, norms = 0, Norms(moved, difference, 0.0)
        else:
            codec = self.replica.downlink
            payload_bytes, norms = codec.move_and_encode(
                motion, self._x_hat, out, key, assigns=assigns, measure=measure
            )
        self.replica.version += 1
        return payload_bytes, norms

    def _clear(self) -> None:
        self._spent = True
        self.filled = 0
        self._weights = self._coefficients = 0.0
        self._stalest = 0

    def _aside(self) -> Tensor:
        """A vector like x, for whoever needs one for a moment."""
        if self._scratch is None:
            self._scratch = vector_like(self.x)
        return self._scratch
