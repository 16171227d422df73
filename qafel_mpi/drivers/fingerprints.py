"""What a run is a function of beside its settings: ranks compare it before the run, and so does a replay."""

from __future__ import annotations

import qafel_mpi
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.provenance import source_digest, versions
from qafel_mpi.transport.handshake import digest


def package() -> str:
    """Version and digest of the source that runs."""
    return f"{versions()['qafel-mpi'] or qafel_mpi.__doc__ or ''} {source_digest()}"


def fingerprints(setup: Setup) -> dict[str, str]:
    """Of data, codecs and model."""
    return {
        "data": setup.task.data_digest,
        "layout": f"{setup.task.layout.elements} {digest(repr(setup.task.layout).encode())}",
        "uplink": setup.uplink.fingerprint(),
        "downlink": setup.downlink.fingerprint(),
        "model": digest(setup.x0.numpy().tobytes()),
        "frozen and constant parts of the model": setup.task.state_digest,
    }
