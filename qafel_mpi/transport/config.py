"""Settings of the transport."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TransportConfig(BaseModel):
    """How messages move between rank 0 and the other ranks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ranks: int | None = Field(
        None, ge=1, description="ranks that take part, the first so many of the job; all where left out"
    )
    broadcast: Literal["fanout", "tree", "ibcast"] = Field(
        "fanout",
        description="q^t goes from rank 0 to each client, or down a binomial tree of the clients, or by MPI_Ibcast",
    )
    queue_limit: int = Field(
        4,
        ge=1,
        description="broadcasts under way to one client; past it they wait (tree, ibcast: rank 0 waits)",
    )
    receive_slots: int = Field(32, ge=1, description="most receives that rank 0 keeps posted")
    upload_frames: int = Field(
        2,
        ge=1,
        description="uploads a client may have under way before it waits; with 1 no GPU encodes beside a training",
    )
    checksum: Literal["auto", "full", "header"] = Field(
        "auto",
        description="what a message's checksum covers: header and payload, or the header alone, on networks that "
        "check their own packets; auto: the header where all ranks are on one host or MPI is GPU-aware, else both",
    )
    device_buffers: Literal["auto", False] = Field(
        "auto",
        description="uploads go from a GPU's memory to MPI where it takes that (`qafel-mpi info`: GPU-aware) and "
        "checksums leave payloads out; false: from page-locked memory of the host, as elsewhere",
    )
    progress: Literal["poll", "thread"] = Field(
        "poll", description="a client applies broadcasts between SGD steps, or on a thread beside them"
    )
    share_gpus: bool = Field(
        True, description="two ranks may compute on one GPU; where not, a run with fewer GPUs is refused"
    )
    clock_rounds: int = Field(10, ge=1, description="round trips per rank at each clock synchronisation")
    clock_seconds: float = Field(
        60.0,
        gt=0,
        description="between clock synchronisations during a run; there is one at each end besides",
    )
    patience_seconds: float = Field(30.0, gt=0, description="say who waits for whom after so long")

    def receives(self, clients: int) -> int:
        """That rank 0 keeps posted for the uploads of so many client ranks.

        Four at least: while it handles one client's two, as many more come. `bench ingest` takes 12.6 µs an upload
        of 15 kB with four, 14.5 with two.
        """
        return min(self.receive_slots, max(4, 2 * clients))
