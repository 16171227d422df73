"""x̂ of earlier versions: a copy of the oldest that is needed, and the payloads that lead from it to the newest."""

from __future__ import annotations

from collections import deque

import numpy as np
from torch import Tensor

from qafel_mpi.algorithms.client import Replica
from qafel_mpi.drivers.build import Setup


class History:
    """Costs the time to decode each payload once more, and the memory of x̂ and of these payloads."""

    def __init__(self, setup: Setup):
        self._setup = setup
        self._oldest = self._replica()
        self._log: deque[tuple[np.ndarray, int]] = (
            deque()
        )  # payload and key of q^t, from t = the oldest version on

    def begin(self, x_hat: Tensor, version: int) -> None:
        """Of a run that is resumed."""
        self._oldest.x_hat.copy_(x_hat)
        self._oldest.version = version
        self._log.clear()

    def published(self, payload: np.ndarray, version: int, key: int, *, needed: int) -> None:
        """q^version. needed: the oldest version that may still be asked for."""
        self._log.append((payload.copy(), key))
        while self._oldest.version < needed:
            self._oldest.apply(*self._log.popleft(), self._oldest.version)

    def at(self, version: int) -> Tensor:
        """x̂^version, (d,), the same bits as every rank held. Raises LookupError where it is older than was needed."""
        if version < self._oldest.version or version > self._oldest.version + len(self._log):
            raise LookupError(f"x̂^{version} is not kept")
        found = self._replica()
        found.x_hat.copy_(self._oldest.x_hat)
        found.version = self._oldest.version
        for payload, key in list(self._log)[: version - found.version]:
            found.apply(payload, key, found.version)
        return found.x_hat

    def _replica(self) -> Replica:
        setup = self._setup
        return Replica(setup.x0, setup.downlink, assigns=setup.assigns)
