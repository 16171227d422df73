"""What a trace says of its run as a whole, from its beginning on: the attributes that are no provenance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qafel_mpi.config import Experiment, to_toml
from qafel_mpi.drivers import digests
from qafel_mpi.drivers.build import Setup
from qafel_mpi.drivers.fingerprints import package


def attributes_of(experiment: Experiment, setup: Setup, answers: Mapping[str, str]) -> dict[str, Any]:
    """answers: what all ranks have agreed on, by name. Each is explained in trace_schema.ATTRIBUTES."""
    up, down = setup.paper_bytes()
    return {
        "experiment": to_toml(experiment),
        "algorithm": experiment.algorithm_label,
        "seed": experiment.seed,
        "driver": experiment.clock.kind,
        "fingerprints": {"package": package(), **answers},
        "clients": setup.clients,
        "parameters": setup.task.layout.elements,
        "uplink_codec": setup.uplink.name,
        "uplink_bits": setup.uplink.bits,
        "downlink_codec": setup.downlink.name,
        "downlink_bits": setup.downlink.bits,
        "buffer_size": experiment.server.buffer_size,
        "checksum": setup.checksum,
        "digest": digests.NAME if experiment.trace.digests else digests.OFF,
        "payload_bytes_per_upload": setup.uplink.payload_bytes(),
        "payload_bytes_per_broadcast": setup.downlink.payload_bytes(),
        "paper_bytes_per_upload": up,
        "paper_bytes_per_broadcast": down,
    }
