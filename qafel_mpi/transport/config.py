"""Settings of the transport."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from qafel_mpi.setting import BOTH, WALL, Settings, takes


class TransportConfig(Settings):
    """How messages travel between rank 0 and the other ranks."""

    ranks: int | None = Field(
        None,
        ge=1,
        description="Number of ranks that take part, counted from rank 0; without it all ranks of the job do.",
        json_schema_extra=BOTH,
    )
    broadcast: Literal["fanout", "tree", "ibcast"] = Field(
        "fanout",
        description="How q^t reaches the clients: fanout sends it from rank 0 to each, tree passes it down a "
        "binomial tree of the clients, ibcast uses MPI_Ibcast.",
        json_schema_extra=WALL,
    )
    queue_limit: int = Field(
        4,
        ge=1,
        description="Largest number of broadcasts under way to one client; later ones wait, and with tree and ibcast "
        "rank 0 waits too.",
        json_schema_extra=WALL,
    )
    spares: int = Field(
        0,
        ge=0,
        description="Number of client ranks, the last ones, that host no clients until another client rank has died: "
        "one of them then takes its clients. This needs a job that goes on without a rank (`mpirun --with-ft ulfm`).",
        json_schema_extra=WALL,
    )
    receive_slots: int = Field(
        32,
        ge=1,
        description="Largest number of receives that rank 0 keeps posted for uploads.",
        json_schema_extra=BOTH,
    )
    upload_frames: int = Field(
        2,
        ge=1,
        description="Largest number of uploads that a client has under way; with 1 a GPU cannot encode an "
        "update while the next training runs.",
        json_schema_extra=WALL,
    )
    checksum: Literal["auto", "full", "header"] = Field(
        "auto",
        description="What a message's checksum covers: full is header and payload, header suits networks that check "
        "their own packets, auto is header where all ranks share a host or MPI is GPU-aware and full elsewhere.",
        json_schema_extra=BOTH,
    )
    device_buffers: Literal["auto", False] = Field(
        "auto",
        description="With auto, uploads go to MPI straight from a GPU's memory where MPI is GPU-aware (see "
        "`qafel-mpi info`) and checksums leave payloads out; with false, always from page-locked memory of the host.",
        json_schema_extra=BOTH | takes("auto or false"),
    )
    progress: Literal["poll", "thread"] = Field(
        "poll",
        description="Whether a client applies broadcasts between its SGD steps or on a thread beside them.",
        json_schema_extra=WALL,
    )
    share_gpus: bool = Field(
        True,
        description="Let several ranks compute on one GPU; with false, a run with too few GPUs is refused.",
        json_schema_extra=BOTH,
    )
    shared_data: bool = Field(
        True,
        description="Keep the data set once in a host's memory, in an MPI window that all ranks of the host read; "
        "false gives each rank a copy.",
        json_schema_extra=BOTH,
    )
    clock_rounds: int = Field(
        10,
        ge=1,
        description="Number of round trips with each rank at a clock synchronization.",
        json_schema_extra=BOTH,
    )
    clock_seconds: float = Field(
        60.0,
        gt=0,
        description="Seconds between clock synchronizations during a run; one takes place at its beginning and "
        "one at its end in any case.",
        json_schema_extra=BOTH,
    )
    patience_seconds: float = Field(
        30.0,
        gt=0,
        description="Seconds after which a waiting rank says for whom it waits.",
        json_schema_extra=BOTH,
    )

    watchdog_seconds: float = Field(
        3600.0,
        ge=0,
        description="Seconds after which the job ends with exit code 3 if a rank waits in vain, or if nothing is "
        "heard of a rank. Give more than any local training or evaluation takes. Before the run begins it is at "
        "least 600. With 0 ranks wait for ever.",
        json_schema_extra=BOTH,
    )

    digest_versions: int | Literal["auto"] = Field(
        "auto",
        description="Versions between two digests of its hidden state that a rank sends to rank 0, which compares "
        "them with its own. 0 is for none, auto for one digest in 128 uploads.",
        json_schema_extra=WALL | takes("a whole number >= 0 or auto"),
    )
    on_divergence: Literal["resynchronise", "stop"] = Field(
        "resynchronise",
        description="What becomes of a rank whose hidden state differs from rank 0's: it gets the full state, or the "
        "run ends. With tree and ibcast the run always ends, because they cannot send a full state to a single rank.",
        json_schema_extra=WALL,
    )

    @model_validator(mode="after")
    def _a_number_of_versions(self) -> TransportConfig:
        if self.digest_versions != "auto" and self.digest_versions < 0:
            raise ValueError(f"digest_versions = {self.digest_versions}: at least 0, or 'auto'")
        return self

    @property
    def watchdog_s(self) -> float:
        """watchdog_seconds, infinite for never."""
        return self.watchdog_seconds or float("inf")

    def hosts(self, ranks: int) -> int:
        """Of so many ranks on the wall clock, those that host clients from the start: neither rank 0 nor spares."""
        return ranks - 1 - self.spares

    def receives(self, clients: int) -> int:
        """That rank 0 keeps posted for the uploads of so many client ranks.

        Four at least: while it handles one client's two, as many more come. `bench ingest` takes 12.6 µs an upload
        of 15 kB with four, 14.5 with two.
        """
        return min(self.receive_slots, max(4, 2 * clients))
