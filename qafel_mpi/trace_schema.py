"""The trace file: its tables as numpy dtypes (HDF5 compound types), and its attributes, each with its meaning.

Times are seconds (float64) on rank 0's monotonic clock since the run began, after clock correction; nan where a
column does not apply. In the shards, before the merge, they are the rank's own raw clock. On the virtual clock
every row of /updates and /steps is a function of the seed.

docs/trace.md is generated from this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

SCHEMA_VERSION = 2  # 2: /updates has use, order, rank and digest; attributes digest, arithmetic, fingerprints

NO_RANK = NOT_ENDED = -1

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
    11: "adopt",
    12: "digest",
}
KIND_NUMBERS = {name: number for number, name in KIND_NAMES.items()}
TAG_DOWN, TAG_UP = 11, 12  # of the drivers: messages from rank 0 and to it; what is passed on keeps its tag
END_NAMES = {0: "sender", 1: "receiver"}
# What may go wrong in a run that goes on. A number is never given to another kind.
FAULT_NAMES = {
    0: "other",
    1: "rank died",
    2: "rank silent",
    3: "rank returned",
    4: "rank joined",
    5: "rank given up",
    6: "message dropped",
    7: "update rejected",
    8: "update clipped",
    9: "client failed",
    10: "hidden state differed",
    11: "resynchronised",
    12: "disk",
    13: "waited too long",
    14: "wrapped around",
}
FAULT_NUMBERS = {name: number for number, name in FAULT_NAMES.items()}
# On the wire; a test holds them against codecs/.
CODEC_NAMES = {1: "identity", 2: "qsgd", 3: "affine", 4: "topk", 5: "randk", 6: "sign", 7: "eden"}
CODEC_NAMES |= {9: "mixed", 10: "fp4", 12: "lattice", 13: "fixed"}
_KINDS = {0: "unknown"} | KIND_NAMES  # of a message that failed the header's check
_CODECS = {0: "none"} | CODEC_NAMES  # of a kind without payload


# What became of an update.
USED, LATE, ENDED, DROPPED, REFUSED = range(5)
USE_NAMES = {USED: "used", LATE: "late", ENDED: "ended", DROPPED: "dropped", REFUSED: "refused"}


@dataclass(frozen=True)
class Column:
    """A column of a table. type: numpy's; unit: empty for counts, names and ratios."""

    name: str
    type: str
    unit: str
    meaning: str
    names: Mapping[int, str] = field(
        default_factory=dict
    )  # what the numbers stand for; an HDF5 enum in the file


@dataclass(frozen=True)
class Table:
    """A table: what one row stands for, and its columns."""

    row: str
    columns: tuple[Column, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of rows in memory and in the shards."""
        return np.dtype([(column.name, column.type) for column in self.columns])

    @property
    def stored_dtype(self) -> np.dtype:
        """Of rows in the trace file: the same, with HDF5 enums for columns whose numbers stand for names."""
        return np.dtype([(column.name, _stored(column)) for column in self.columns])


def _stored(column: Column) -> np.dtype:
    """What h5py.enum_dtype makes: h5py finds an enum's names in the type's metadata."""
    if not column.names:
        return np.dtype(column.type)
    numbers = {name: number for number, name in column.names.items()}
    return np.dtype(column.type, metadata={"enum": numbers})


_C = Column  # one line a column

SCHEMA: dict[str, Table] = {
    "messages": Table(
        "One row for each MPI message at each of its two ends.",
        (
            _C("end", "u1", "", "which end of the message the row is from", END_NAMES),
            _C("kind", "u1", "", "what the message is", _KINDS),
            _C("codec", "u1", "", "codec of the payload", _CODECS),
            _C("bits", "u1", "bits", "width of a quantized element"),
            _C("dropped", "u1", "", "1 where the message failed the check, or came twice, and was not used"),
            _C("src", "<i4", "", "rank of the sender"),
            _C("dst", "<i4", "", "rank of the receiver"),
            _C("client", "<i8", "", "client that the message is from or for"),
            _C("version", "<i8", "", "server version that the message belongs to"),
            _C("sequence", "<i8", "", "number of the message in its stream"),
            _C("payload_bytes", "<i8", "bytes", "what the codec wrote"),
            _C("wire_bytes", "<i8", "bytes", "payload and header"),
            _C("t_encode_begin", "<f8", "s", "encoding began"),
            _C("t_encode_end", "<f8", "s", "encoding was seen to have ended"),
            _C("t_post", "<f8", "s", "the send or receive was posted"),
            _C("t_complete", "<f8", "s", "the request was seen to be complete"),
            _C(
                "t_matched",
                "<f8",
                "s",
                "sender: the receiver has matched the message (synchronous sends: t_complete; Ibcast: nan)",
            ),
            _C("t_decode_begin", "<f8", "s", "decoding began"),
            _C("t_decode_end", "<f8", "s", "decoding ended"),
        ),
    ),
    "updates": Table(
        "One row for each client update that reached the server, in the order of use.",
        (
            _C("client", "<i8", "", "client that trained"),
            _C("participation", "<i8", "", "which of this client's trainings, from 0"),
            _C("start_version", "<i8", "", "server version that the training started from"),
            _C("version", "<i8", "", "server version (t) when the update arrived"),
            _C("staleness", "<i8", "", "version − start_version (τ)"),
            _C("weight", "<f8", "", "s(staleness) as applied; 0 where the update was discarded"),
            _C("loss", "<f8", "", "mean loss of the local training, as a float32: infinite beyond 3.4e38"),
            _C("examples", "<i8", "", "training examples of the client"),
            _C("payload_bytes", "<i8", "bytes", "what the codec wrote"),
            _C("train_seconds", "<f8", "s", "duration of the training (virtual clock: the drawn one)"),
            _C("start_s", "<f8", "s", "the training began"),
            _C("finish_s", "<f8", "s", "the training ended"),
            _C(
                "use",
                "u1",
                "",
                "what became of it: used; late: its round was over; ended: it came after the last step; dropped: it "
                "failed the check, or came twice, and only rank, payload_bytes, finish_s and digest are known; "
                "refused: its values were not finite, or too large",
                USE_NAMES,
            ),
            _C("order", "<i4", "", "place within its server step, from 0; −1 where it was not used"),
            _C(
                "rank",
                "<i4",
                "",
                "rank that sent it; −1 on the virtual clock, where any worker may train it (/messages has which)",
            ),
            _C("digest", "<u8", "", "digest of the payload as it arrived; 0 with trace.digests = false"),
        ),
    ),
    "steps": Table(
        "One row for each server step from version t to t+1; row 0 is the state before the first step.",
        (
            _C("version", "<i8", "", "version that the step made (t+1)"),
            _C("uploads", "<i8", "", "updates received until then"),
            _C("time_s", "<f8", "s", "end of the step on the run's clock"),
            _C("loss", "<f8", "", "loss of x on the test set; nan where the step was not evaluated"),
            _C("accuracy", "<f8", "", "test accuracy as a share of 1; nan where there is none"),
            _C("gradient_norm_squared", "<f8", "", "‖∇f(x)‖², recorded on request (trace.gradient_norm)"),
            _C("gap", "<f8", "", "‖x − x̂‖₂ after the step"),
            _C("step_norm", "<f8", "", "‖x^{t+1} − x^t‖₂"),
            _C(
                "difference_norm",
                "<f8",
                "",
                "norm of what Q_s was applied to: ‖x^{t+1} − x̂^t‖₂ (direct: ‖x^{t+1}‖₂)",
            ),
            _C("quantization_error", "<f8", "", "‖Q_s(v) − v‖₂ of that vector v"),
            _C("payload_bytes_up", "<i8", "bytes", "payload of all updates until then"),
            _C(
                "payload_bytes_down",
                "<i8",
                "bytes",
                "payload of all broadcasts until then; each counts once, whatever the number of links",
            ),
            _C("messages_down", "<i8", "", "broadcasts or downloads until then; −1 in an older trace"),
            _C(
                "bits_per_byte",
                "<f8",
                "bits",
                "the loss as bits per byte of text; nan where the data are no text",
            ),
        ),
    ),
    "ranks": Table(
        "One row for each rank, written when the run begins and again at its end.",
        (
            _C("rank", "<i4", "", "rank in the run's communicator"),
            _C("local_rank", "<i4", "", "number among the ranks of its host"),
            _C("pid", "<i8", "", "process id"),
            _C("host", "S64", "", "host name"),
            _C("device", "S32", "", "where it computes: cpu or cuda:0"),
            _C("device_name", "S64", "", "model of the processor or GPU"),
            _C("device_uuid", "S64", "", "the GPU's UUID; empty on a CPU"),
            _C("cpu_set", "S128", "", "cores that it may use, such as 0-3,8"),
            _C("threads", "<i4", "", "threads that it computes with"),
            _C("mpi_library", "S128", "", "MPI library and version"),
            _C("mpi_standard", "S16", "", "version of the MPI standard"),
            _C("thread_level", "S24", "", "thread level that MPI provides"),
            _C("version", "<i8", "", "version of the hidden state at the end; −1 where it never got there"),
            _C("x_hat_digest", "S64", "", "SHA-256 of the hidden state at the end"),
            _C("sent", "<i8", "", "protocol messages sent; of a resumed run, since it went on last"),
            _C("received", "<i8", "", "protocol messages received; of a resumed run, since it went on last"),
            _C("dropped", "<i8", "", "received messages that failed the check, or came twice"),
            _C("peak_memory_bytes", "<i8", "bytes", "largest resident memory"),
            _C(
                "rows_written",
                "<i8",
                "",
                "rows that this rank recorded in the other tables; those that were kept, where the run was resumed "
                "without it; −1 where it never got to its end",
            ),
        ),
    ),
    "clock": Table(
        "One row for each rank and clock synchronization.",
        (
            _C("rank", "<i4", "", "rank whose clock was compared with rank 0's"),
            _C("sync", "<i4", "", "number of the synchronization, from 0 at the beginning"),
            _C("local_s", "<f8", "s", "the rank's own clock at this synchronization"),
            _C("offset_s", "<f8", "s", "rank 0's clock minus the rank's own"),
            _C(
                "drift",
                "<f8",
                "s/s",
                "change of the offset since the synchronization before; nan at the first",
            ),
            _C("error_bound_s", "<f8", "s", "half the smallest round trip, which bounds the offset's error"),
        ),
    ),
    "encodings": Table(
        "One row for each update that a rank encoded, recorded on request (trace.encoding_error).",
        (
            _C("client", "<i8", "", "client that trained"),
            _C("participation", "<i8", "", "which of this client's trainings, from 0"),
            _C("norm", "<f8", "", "norm of what Q_c was applied to: ‖y_P − y_0‖₂ (fedasync: ‖y_P‖₂)"),
            _C("quantization_error", "<f8", "", "‖Q_c(v) − v‖₂ of that vector v"),
        ),
    ),
    "faults": Table(
        "One row for each fault that a rank noticed, whether the run went on or ended with it. Most runs have none.",
        (
            _C("time_s", "<f8", "s", "real seconds since the run began, on both clocks, when it was noticed"),
            _C("kind", "u1", "", "what was noticed", FAULT_NAMES),
            _C("noticed_by", "<i4", "", "rank that noticed it and wrote the row"),
            _C("rank", "<i4", "", "rank that it is the fault of, or happened to"),
            _C("host", "S64", "", "host of that rank"),
            _C("client", "<i8", "", "client concerned; −1 where none is in particular"),
            _C("version", "<i8", "", "server version (t) concerned; −1 where none is in particular"),
            _C("in_flight", "<i8", "", "messages or trainings under way with that rank, which are lost"),
            _C("detail", "S192", "", "the rest, in words"),
        ),
    ),
    "memory": Table(
        "One row every trace.flush_seconds while the run goes on, of rank 0.",
        (
            _C("time_s", "<f8", "s", "real seconds since the run began, on both clocks"),
            _C("resident_bytes", "<i8", "bytes", "resident memory"),
        ),
    ),
}

TABLES = {name: table.dtype for name, table in SCHEMA.items()}
MESSAGES, UPDATES, STEPS, MEMORY = (TABLES[name] for name in ("messages", "updates", "steps", "memory"))
RANKS, CLOCK, ENCODINGS, FAULTS = (TABLES[name] for name in ("ranks", "clock", "encodings", "faults"))


def taken(updates: np.ndarray) -> np.ndarray:
    """Rows of /updates without those of messages that were dropped: what counts as an upload."""
    return updates[updates["use"] != DROPPED]


# The columns that are times on a rank's own clock, and so corrected at the merge.
MESSAGE_TIMES = tuple(name for name in MESSAGES.names or () if name.startswith("t_"))
OWN_TIMES = {"messages": MESSAGE_TIMES, "faults": ("time_s",)}

# What lies in the file beside the tables.
GROUPS = {
    "/raw/messages": "the times of /messages as each rank's own clock showed them, before the correction",
    "/final/x": "the server's model at the end",
    "/final/x_hat": "the hidden state at the end",
}

# Root attributes: (unit, meaning). Those of the machine are rank 0's.
ATTRIBUTES: dict[str, tuple[str, str]] = {
    "schema_version": ("", "version of this description"),
    "experiment": ("TOML", "the whole experiment, with the preset resolved"),
    "algorithm": ("", "name of the algorithm, with what differs from its definition in brackets"),
    "seed": ("", "seed of the run"),
    "driver": ("", "clock of the run: wall or virtual"),
    "command_line": ("", "the command that started the run"),
    "git_commit": ("", "commit of the checkout that ran; empty where there is none"),
    "git_dirty": ("", "whether files differed from the commit; unknown where git cannot say"),
    "versions": ("JSON", "versions of Python and the main packages"),
    "started": ("ISO 8601", "when the run started, in UTC"),
    "host": ("", "host name"),
    "cpu": ("", "model of the processor"),
    "memory_bytes": ("bytes", "memory of the host"),
    "mpi_library": ("", "MPI library and version"),
    "interconnect": ("JSON", "MPI's device and settings, network devices and libraries"),
    "container": ("", "container that the run took place in"),
    "scheduler": ("JSON", "variables of the batch system"),
    "origin_s": ("s", "rank 0's raw clock when the run began"),
    "arithmetic": (
        "JSON",
        "what decides the last bits of results, by ranks that have the same: cpu, device, isa (torch's), threads, "
        "versions, environment",
    ),
    "fingerprints": (
        "JSON",
        "what a replay must have too: package, data, layout, uplink, downlink, the first model, its constant parts",
    ),
    "hosts": ("JSON", "of each host: its ranks, cpu, memory_bytes, network, container and gpu_aware"),
    "energy": ("JSON", "joules by RAPL (cpu) and NVML (gpu), by host too; what was not measured, and why"),
    "ranks": ("", "ranks that took part"),
    "clients": ("", "clients of the population"),
    "parameters": ("", "elements of the model's vector"),
    "uplink_codec": ("", "codec of the uploads"),
    "uplink_bits": ("bits", "width of a quantized element of an upload"),
    "downlink_codec": ("", "codec of the broadcasts"),
    "downlink_bits": ("bits", "width of a quantized element of a broadcast"),
    "buffer_size": ("", "uploads for a server step (K)"),
    "checksum": ("", "what the messages' checksums cover: full or header"),
    "digest": ("", "what the digests in /updates are: crc64-xz; off with trace.digests = false"),
    "payload_bytes_per_upload": ("bytes", "payload of one upload; the most of one where sizes vary"),
    "payload_bytes_per_broadcast": ("bytes", "payload of one broadcast; the most of one where sizes vary"),
    "paper_bytes_per_upload": ("bytes", "size of one upload by the paper's formula"),
    "paper_bytes_per_broadcast": ("bytes", "size of one broadcast by the paper's formula"),
    "replay_of": (
        "JSON",
        "only of a replay, whose times are the run's: the trace that it is of, and whether x and x̂ were the same",
    ),
    "outcome": ("", "how the run ended: target reached, finished, interrupted or failed, with the reason"),
    "seconds": ("s", "real duration of the run"),
    "virtual_seconds": ("s", "virtual duration of the run; 0 on the wall clock"),
    "uploads": ("", "updates received"),
    "rejected_updates": ("", "uploads that were not used: not finite, or beyond server.reject_norm"),
    "clipped_updates": ("", "uploads that were scaled down to server.clip_norm"),
    "server_steps": ("", "server steps"),
    "uploads_to_target": ("", "updates until the target was reached; −1 where it was not"),
    "accuracy": ("", "last test accuracy, as a share of 1"),
    "loss": ("", "last loss on the test set"),
    "bits_per_byte": ("bits", "last loss as bits per byte of text; nan where the data are no text"),
    "entropy_bits_per_byte": (
        "bits",
        "entropy of the test text's byte frequencies; a model that learns more than these has fewer bits",
    ),
    "payload_bytes_up": ("bytes", "payload of all uploads"),
    "payload_bytes_down": ("bytes", "payload of all broadcasts, each counted once"),
    "wire_bytes_up": ("bytes", "payload and headers of all uploads"),
    "wire_bytes_down": ("bytes", "payload and headers of all broadcasts, each counted once"),
    "paper_bytes_up": ("bytes", "size of all uploads by the paper's formula"),
    "paper_bytes_down": ("bytes", "size of all broadcasts by the paper's formula"),
    "down_links": ("bytes", "payload sent down, summed over all links"),
    "dropped_messages": ("", "messages that failed the check, or came twice"),
    "busy_seconds": ("s", "wall clock: of rank 0's turns in which messages came or had been sent"),
    "skipped_versions": (
        "",
        "wall clock: broadcasts that a client never got because a later one or a model took their place, summed over "
        "clients",
    ),
    "checkpoints": (
        "JSON",
        "how many were written and refused, the last one's bytes, and the seconds that took",
    ),
    "resumed": ("JSON", "each time that it was resumed: when, ranks, and what was before"),
    "rows": ("JSON", "rows of each table"),
    "lost_bytes": ("JSON", "bytes at the end of a shard of no whole block; only where there are some"),
    "missing_ranks": ("JSON", "ranks that left no shard; only where there are some"),
    "damaged": ("JSON", "what was left out because of a wrong checksum; only where there is some"),
    "missing_rows": (
        "JSON",
        "by rank: rows that it recorded and left in no shard; only where there are some",
    ),
}
