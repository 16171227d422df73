"""The trace file's tables, as numpy dtypes (HDF5 compound types), and the attributes beside them.

Times are seconds (float64) on rank 0's monotonic clock since the run began, after clock correction;
nan where a column does not apply. In the shards, before the merge, they are the rank's own raw clock.
The virtual driver writes /updates and /steps on the virtual clock: there every row is a function of the seed.

Root attributes: schema_version, experiment (TOML, presets resolved), algorithm, seed,
driver ("wall" or "virtual"), command_line, git_commit, git_dirty ("unknown" where git can't say), versions (JSON),
host, cpu, memory_bytes, mpi_library, interconnect, scheduler (both JSON), container: rank 0's;
hosts (JSON: of each host its ranks, cpu, memory_bytes, network, container and gpu_aware);
started (ISO 8601, UTC), finished, outcome, parameters, ranks, clients, uplink_codec, uplink_bits,
downlink_codec, downlink_bits, buffer_size, payload_bytes_per_upload, payload_bytes_per_broadcast,
paper_bytes_per_upload, paper_bytes_per_broadcast, seconds, virtual_seconds, uploads, server_steps,
uploads_to_target (-1: never), accuracy, loss, payload_bytes_up, payload_bytes_down, wire_bytes_up,
wire_bytes_down, down_links (payload bytes down, summed over links), dropped_messages;
skipped_versions (wall runs: broadcasts that a client never got, for a later one or a model in their place; summed
over clients).
/final: x, x_hat; attributes x_digest, x_hat_digest (SHA-256 of their bytes).
"""

from __future__ import annotations

import numpy as np

SCHEMA_VERSION = 1

NO_RANK = -1
NOT_ENDED = -1

# What readers need of wire.py, which they do not import; a test keeps the two in agreement.
HEADER_BYTES = 64
KIND_NAMES = {
    1: "broadcast",
    2: "train",
    3: "update",
    4: "model",
    5: "stop",
    6: "bye",
    7: "download",
    8: "evaluate",
    9: "score",
    10: "diverged",
}
KIND_NUMBERS = {name: number for number, name in KIND_NAMES.items()}

# One row per MPI message at each end (`end`: 0 the sender's row, 1 the receiver's).
MESSAGES = np.dtype(
    [
        ("end", "u1"),
        ("kind", "u1"),  # wire.Kind
        ("codec", "u1"),
        ("bits", "u1"),
        ("dropped", "u1"),  # 1: failed wire.check, nothing of it was used
        ("src", "<i4"),  # ranks
        ("dst", "<i4"),
        ("client", "<i8"),
        ("version", "<i8"),
        ("sequence", "<i8"),
        ("payload_bytes", "<i8"),
        ("wire_bytes", "<i8"),
        ("t_encode_begin", "<f8"),
        ("t_encode_end", "<f8"),
        ("t_post", "<f8"),  # the send or receive was posted
        ("t_complete", "<f8"),  # the request was seen to be complete
        ("t_matched", "<f8"),  # sender: the receiver has matched it (synchronous: t_complete; Ibcast: NaN)
        ("t_decode_begin", "<f8"),
        ("t_decode_end", "<f8"),
    ]
)

# One row per client update that the server used or discarded.
UPDATES = np.dtype(
    [
        ("client", "<i8"),
        ("participation", "<i8"),  # which of this client's trainings, from 0
        ("start_version", "<i8"),
        ("version", "<i8"),  # the server's t when it arrived
        ("staleness", "<i8"),  # version - start_version
        ("weight", "<f8"),  # s(staleness), as applied; 0 where it was discarded
        ("loss", "<f8"),
        ("examples", "<i8"),
        ("payload_bytes", "<i8"),
        ("train_seconds", "<f8"),  # on the run's clock (virtual: the drawn duration)
        ("start_s", "<f8"),
        ("finish_s", "<f8"),
    ]
)

# One row per server step t -> t+1; row 0 is the state before the first step (version 0).
STEPS = np.dtype(
    [
        ("version", "<i8"),  # t+1: the version that this step made
        ("uploads", "<i8"),  # updates received until then
        ("time_s", "<f8"),  # on the run's clock
        ("loss", "<f8"),  # nan where the step was not evaluated
        ("accuracy", "<f8"),
        ("gradient_norm_squared", "<f8"),  # recorded on request
        ("gap", "<f8"),  # ||x - x_hat||_2 after the step
        ("step_norm", "<f8"),  # ||x^{t+1} - x^t||_2
        (
            "difference_norm",
            "<f8",
        ),  # what Q_s was applied to: ||x^{t+1} - x_hat^t||_2 (direct: ||x^{t+1}||_2)
        ("quantization_error", "<f8"),  # ||Q_s(v) - v||_2 of that v
        ("payload_bytes_up", "<i8"),  # until then
        ("payload_bytes_down", "<i8"),  # until then; a broadcast counts once
    ]
)

# One row per rank, written when the run begins and again at its end: of a run that was killed the end is missing.
RANKS = np.dtype(
    [
        ("rank", "<i4"),
        ("local_rank", "<i4"),
        ("pid", "<i8"),
        ("host", "S64"),
        ("device", "S32"),  # "cpu" or "cuda:0"
        ("device_name", "S64"),
        ("device_uuid", "S64"),
        ("cpu_set", "S128"),  # "0-3,8"
        ("threads", "<i4"),
        ("mpi_library", "S128"),
        ("mpi_standard", "S16"),
        ("thread_level", "S24"),
        ("version", "<i8"),  # of the hidden state held at the end; NOT_ENDED: it never came there
        ("x_hat_digest", "S64"),  # SHA-256, at the end
        ("sent", "<i8"),  # protocol messages over the whole run
        ("received", "<i8"),
        ("dropped", "<i8"),
        ("peak_memory_bytes", "<i8"),
    ]
)

# One row per rank and synchronisation: rank 0's clock minus the rank's own.
CLOCK = np.dtype(
    [
        ("rank", "<i4"),
        ("sync", "<i4"),  # counts from 0, at the beginning, for every rank
        ("local_s", "<f8"),  # the rank's own clock at this synchronisation
        ("offset_s", "<f8"),
        ("drift", "<f8"),  # seconds a second, from the synchronisation before; nan at the first
        ("error_bound_s", "<f8"),  # half the smallest round trip
    ]
)

# One row per update that a rank encoded, from which δ_c is measured; recorded on request (trace.encoding_error).
ENCODINGS = np.dtype(
    [
        ("client", "<i8"),
        ("participation", "<i8"),
        ("norm", "<f8"),  # of what Q_c was applied to: ||y_P - y_0||_2 (fedasync: ||y_P||_2)
        ("quantization_error", "<f8"),  # ||Q_c(v) - v||_2 of that v
    ]
)

# Rank 0's resident memory, every trace.flush_seconds while the run goes on.
MEMORY = np.dtype(
    [
        ("time_s", "<f8"),  # seconds since the run began, also on the virtual clock
        ("resident_bytes", "<i8"),
    ]
)

TABLES = {
    "messages": MESSAGES,
    "updates": UPDATES,
    "steps": STEPS,
    "ranks": RANKS,
    "clock": CLOCK,
    "encodings": ENCODINGS,
    "memory": MEMORY,
}

# The columns of /messages that are times, and so corrected at the merge.
MESSAGE_TIMES = tuple(name for name in MESSAGES.names or () if name.startswith("t_"))
