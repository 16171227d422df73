"""Algorithms 2 and 3 of QAFeL: the client, and its background process that follows the hidden state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from torch import Tensor

from qafel_mpi.algorithms.feedback import ErrorFeedback
from qafel_mpi.codecs.base import Buffers, Codec, Done, Encoding, NonFiniteError
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.memory import copy_of
from qafel_mpi.kernels.numba.rows import derive_rows
from qafel_mpi.kernels.state import State, restore_array


def shared_key(seed: int) -> int:
    """The key of every upload, where the uplink's messages share one."""
    return derive(seed, Stream.ROTATION)


def upload_key(uplink: Codec, seed: int, client: int, participation: int) -> int:
    """The key of one upload: of its own, but where the uplink's messages share one."""
    return shared_key(seed) if uplink.shared else derive(seed, Stream.UPLINK, client, participation)


def upload_keys(uplink: Codec, seed: int, trainings: np.ndarray) -> np.ndarray:
    """`upload_key` of several. trainings: (n, 2) int64, client and participation. Returns (n,) uint64."""
    keys = derive_rows(seed, Stream.UPLINK, trainings)
    if uplink.shared:
        keys[:] = shared_key(seed)
    return keys


class Replica:
    """The shared hidden state x̂^t, as the server and every client hold it: the same bits for the same t.

    x_hat: (d,), starts as x^0. assigns: the downlink carries x itself (mode direct or none, or an identity
    codec) rather than a difference to x̂.
    """

    def __init__(self, x0: Tensor, downlink: Codec, *, assigns: bool):
        self.x_hat = copy_of(x0)
        self.downlink = downlink
        self.assigns = assigns
        self.version = 0

    def apply(self, payload: np.ndarray, key: int, version: int) -> None:
        """Algorithm 3: x̂^{t+1} = x̂^t + decode(q^t), in order. version: t.

        Raises ValueError, and then x̂ is as it was, where q^t can't be decoded, or is not the one that x̂ needs next;
        a payload that carries x itself may skip.
        """
        if self.assigns:
            self.downlink.decode(payload, self.x_hat, key)
        elif version == self.version:
            self.downlink.accumulate(payload, self.x_hat, 1.0, key)
        else:
            raise ValueError(f"q^{version} does not apply to the hidden state of version {self.version}")
        self.version = version + 1

    def download(self, payload: np.ndarray, key: int, version: int) -> None:
        """Unicast: x̂ = decode(Q_s(x^version)), for this holder alone. Raises PayloadError."""
        self.downlink.decode(payload, self.x_hat, key)
        self.version = version

    def catch_up(self, payload: np.ndarray, full: Codec, version: int) -> None:
        """Take over x̂^version as another rank holds it. full: the identity codec. Raises PayloadError."""
        full.decode(payload, self.x_hat, 0)
        self.version = version

    def state(self) -> State:
        """x̂ and its version; x̂ on the CPU."""
        return {"x_hat": self.x_hat.numpy(), "version": self.version}

    def restore(self, state: State) -> None:
        restore_array(self.x_hat.numpy(), state["x_hat"])
        self.version = int(state["version"])


class Encoded(NamedTuple):
    """Several uploads: payload bytes, keys of their draws, and by their index the errors of those that diverged."""

    sizes: list[int]
    keys: list[int]
    errors: dict[int, NonFiniteError]


class Client:
    """Algorithm 2 around the local training, which the caller runs between `begin` and `encode`.

    A client id is not a rank: in the virtual driver one worker plays many clients.
    """

    def __init__(
        self,
        replica: Replica,
        uplink: Codec,
        *,
        seed: int,
        sends_model: bool = False,
        feedback: ErrorFeedback | None = None,
    ):
        self.replica = replica
        self.uplink = uplink
        self.seed = seed
        self.feedback = feedback
        # FedAsync uploads y_P = y_0 + (y_P - y_0): y_0 must be kept, for x̂ moves on while the client trains.
        self._start = copy_of(replica.x_hat) if sends_model else None

    def kept(self) -> dict[int, tuple[bytes, int]]:
        """What error feedback keeps, as its `state`; nothing without it."""
        return {} if self.feedback is None else self.feedback.state()

    def restore(self, kept: Mapping[int, tuple[bytes, int]]) -> None:
        """The inverse of `kept`. Raises ValueError where a residual is of another size."""
        if self.feedback is not None:
            self.feedback.restore(kept, self.replica.x_hat.dtype)

    def begin(self, y_0: Tensor) -> int:
        """y_0: (d,), x̂^t, whatever version t it holds now; with unicast what this client was sent. Returns t."""
        if self._start is not None:
            self._start.copy_(y_0)
        return self.replica.version

    def encode(self, delta: Tensor, out: np.ndarray, *, client: int, participation: int) -> tuple[int, int]:
        """Write Q_c(y_P − y_0) (FedAsync: Q_c(y_P)) to out. Returns (payload bytes, key of its draws).

        delta: (d,), y_P − y_0; FedAsync and error feedback overwrite it. out: uint8. participation: which of the
        client's trainings this is. Raises NonFiniteError where the training diverged.
        """
        encoding, key = self.begin_encoding(delta, out, client=client, participation=participation)
        return encoding.finish(), key

    def begin_encoding(
        self, delta: Tensor, out: np.ndarray | Tensor, *, client: int, participation: int
    ) -> tuple[Encoding, int]:
        """Start `encode`: the next training may begin, with another delta. out: see Codec.begin."""
        key = upload_key(self.uplink, self.seed, client, participation)
        if self._start is not None:
            delta.add_(self._start)
        if self.feedback is not None:
            return Done(self._encode_and_keep(delta, out, key, client, participation)), key
        return self.uplink.begin(delta, out, key), key

    def _encode_and_keep(
        self, delta: Tensor, out: np.ndarray | Tensor, key: int, client: int, participation: int
    ) -> int:
        """Error feedback: u = Q_c(v), v = β e + (y_P − y_0), and e = v − u for the client's next upload."""
        assert self.feedback is not None
        self.feedback.add_to(delta, client)
        size = self.uplink.begin(delta, out, key).finish()
        payload = out[:size]
        decoded = self.uplink.scratch(delta)
        self.uplink.decode(payload.cpu().numpy() if isinstance(payload, Tensor) else payload, decoded, key)
        self.feedback.keep(delta, decoded, client, participation)
        return size

    def encode_all(self, deltas: Tensor, outs: Buffers, trainings: np.ndarray) -> Encoded:
        """encode of several trainings from one version, with the same bytes.

        deltas: (n, d). trainings: (n, 2) int64, client and participation.
        """
        keys = upload_keys(self.uplink, self.seed, trainings)
        if self._start is not None:
            deltas.add_(self._start.to(deltas.device))
        if self.feedback is not None:
            return self._encode_each(deltas, outs, keys.tolist(), trainings)
        try:
            return Encoded(self.uplink.encode_all(deltas, outs, keys), keys.tolist(), {})
        except NonFiniteError:
            return self._encode_each(deltas, outs, keys.tolist(), trainings)

    def _encode_each(self, vectors: Tensor, outs: Buffers, keys: list[int], trainings: np.ndarray) -> Encoded:
        """Where a training diverged, the others are as good as ever."""
        encoded = Encoded([], keys, {})
        for i, (vector, out, key) in enumerate(zip(vectors, outs, keys, strict=True)):
            try:
                if self.feedback is None:
                    encoded.sizes.append(self.uplink.encode(vector, out, key))
                else:
                    size = self._encode_and_keep(vector, out, key, *trainings[i].tolist())
                    encoded.sizes.append(size)
            except NonFiniteError as error:
                encoded.sizes.append(0)
                encoded.errors[i] = error
        return encoded
