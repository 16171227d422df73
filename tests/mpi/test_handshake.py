"""The handshake on real ranks: what they run, and where they write."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from qafel_mpi.drivers import fingerprints
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.tasks.datasets import DATASETS
from qafel_mpi.transport.backoff import Backoff
from qafel_mpi.transport.handshake import HandshakeError, agree, same_folder
from qafel_mpi.transport.placement import place
from qafel_mpi.transport.window import HostArrays


def hosts(comm) -> tuple[str, ...]:
    """Made-up ones, of two ranks each, as rank 0 knows them."""
    return tuple(f"h{rank // 2 + 1}" for rank in range(comm.size)) if comm.rank == 0 else ()


def compare(comm, patience_s: float = 10, **answers: str) -> None:
    agree(comm, answers, hosts=hosts(comm), patience_s=patience_s, backoff=Backoff(crowded=True))


@pytest.mark.mpi
def test_ranks_that_agree_pass_the_handshake(comm, folder):
    compare(comm, mpi="same", data="same")
    same_folder(comm, folder / "a.h5", place(comm, bind=False))
    comm.Barrier()
    assert not list(folder.iterdir()), "no mark is left"


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_differs_is_named_with_its_host_and_the_field_on_every_rank(comm):
    last = comm.size - 1
    with pytest.raises(HandshakeError) as error:
        compare(comm, mpi="same", uplink="qsgd 8 bits" if comm.rank == last else "qsgd 4 bits")
    assert str(error.value).startswith(
        f"rank {last} on h{last // 2 + 1} does not run what rank 0 on h1 runs: "
        "uplink is 'qsgd 8 bits' there, 'qsgd 4 bits' on rank 0; "
    )


@pytest.mark.mpi(min_size=5)
def test_other_hosts_that_differ_are_named_too(comm):
    with pytest.raises(HandshakeError, match=r"rank 2 on h2 .* \(and it differs from rank 0's on h3\)"):
        compare(comm, package=f"version {min(comm.rank, 2)}" if comm.rank > 1 else "version 0")


@pytest.mark.mpi(min_size=3)
def test_ranks_that_are_waited_for_are_named_with_their_hosts(comm, capfd):
    class Watched(tuple[str, ...]):
        """The hosts of ranks, which rank 0 looks up when it says for whom it waits: then rank 2 comes."""

        def __getitem__(self, rank):
            if rank == 2:
                comm.Isend(np.zeros(1), 2, 9).Wait()
            return super().__getitem__(rank)

    if comm.rank == 2:
        comm.Recv(np.zeros(1), 0, 9)
    names = Watched(hosts(comm))
    agree(comm, {"mpi": "same"}, hosts=names, patience_s=0, backoff=Backoff(crowded=True))
    said = capfd.readouterr().err
    assert (" 2 on h2" in said) == (comm.rank == 0)
    assert comm.rank > 0 or "rank 0 waits for the handshake of rank " in said


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("why", ["", "Permission denied"])
def test_a_folder_that_rank_0_does_not_share_is_named_with_the_host(comm, folder, monkeypatch, why):
    """The last rank is the first of another host, where its mark lies elsewhere or could not be written."""
    spot = replace(place(comm, bind=False), host=f"h{comm.rank + 1}", local_rank=comm.rank % (comm.size - 1))
    out = folder / "a.h5"
    if comm.rank == comm.size - 1:
        spot = replace(spot, local_rank=0)
        monkeypatch.setattr("qafel_mpi.transport.handshake.leave_mark", lambda out, rank, text: why)
    with pytest.raises(HandshakeError, match="must lie on a file system that all hosts share") as error:
        same_folder(comm, out, spot)
    assert f"{folder} on h{comm.size} is not the folder of h1: " in str(error.value)
    assert (why or "h1 has another one") in str(error.value)


@pytest.mark.mpi(min_size=2)
def test_a_data_set_of_which_one_label_differs_is_refused(comm, folder, digits, monkeypatch):
    def other(*words):
        data = DATASETS["synthetic"](*words)
        y = data.y.copy()
        y[7] = (y[7] + 1) % data.classes
        return replace(data, y=y)

    monkeypatch.setattr(HostArrays, "once", lambda memory, make: make())  # each rank as on a host of its own
    if comm.rank == comm.size - 1:
        monkeypatch.setitem(DATASETS, "digits", other)
    else:
        monkeypatch.setitem(DATASETS, "digits", DATASETS["synthetic"])
    with pytest.raises(HandshakeError, match=rf"^rank {comm.size - 1} on .*: data is '10000 examples"):
        wall.run(digits(), comm, folder / "a.h5")


def with_a_mask(config, shape, classes):
    """A model whose constant mask comes from the operating system: no seed reaches it."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    model.register_buffer("mask", torch.tensor([n % 2 == 0 for n in os.urandom(64)]))
    return model


@pytest.mark.mpi(min_size=2)
def test_a_mask_that_differs_by_rank_is_refused(comm, folder, digits):
    with pytest.raises(HandshakeError, match=r"frozen and constant parts of the model is"):
        wall.run(digits(f"task.model={__name__}:with_a_mask"), comm, folder / "a.h5")


@pytest.mark.mpi(min_size=2)
def test_another_checkout_of_the_same_version_is_refused_before_data_are_loaded(
    comm, folder, digits, monkeypatch
):
    def loaded(*words):
        raise AssertionError("data were loaded")

    monkeypatch.setitem(DATASETS, "digits", loaded)
    if comm.rank == comm.size - 1:
        monkeypatch.setattr(fingerprints, "source_digest", lambda: "0123456789abcdef")
    with pytest.raises(HandshakeError, match=r"package is '.* 0123456789abcdef' there"):
        wall.run(digits(), comm, folder / "a.h5")
