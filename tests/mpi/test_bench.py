"""Each benchmark over ranks at a tiny size: its rows, its content checks, and that all ranks end together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi import startup as marks
from qafel_mpi.bench import (
    backoff,
    broadcast,
    data,
    digests,
    ingest,
    overlap,
    p2p,
    progress,
    sizes,
    startup,
    tracing,
    virtual,
)
from qafel_mpi.bench.measuring import paths, ranks
from qafel_mpi.bench.measuring.result import Row
from qafel_mpi.bench.measuring.timing import Limits
from qafel_mpi.config import load
from qafel_mpi.drivers.digests import digester
from qafel_mpi.drivers.rows import received_row
from qafel_mpi.drivers.virtual import run as virtual_run
from qafel_mpi.drivers.wall import alone
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.transport.exchange import broadcast_text

SHORT = Limits(seconds=0.05, least=5, most=20, warmups=2)


def on_every_rank(comm: MPI.Intracomm, rows: Iterable[Row]) -> tuple[list[Row], bool]:
    """The rows, and whether rank 0 has any: so that all ranks assert alike."""
    kept = list(rows)
    return kept, bool(ranks.agree(comm)(len(kept)))


def fine(row: Row) -> bool:
    return not row.wrong and len(row.ours.values) >= 5 and len(row.ours.warmups) >= 1


@pytest.mark.mpi(min_size=2)
def test_p2p_has_a_row_for_each_operation_and_size_with_nothing_wrong(comm):
    found, any_here = on_every_rank(comm, ranks.first(comm, 2, lambda pair: p2p.rows(pair, SHORT, [8, 4096])))
    assert any_here
    if comm.rank < 2:
        names = [tuple(row.parameters[key] for key in ("operation", "bytes", "checksum")) for row in found]
        operations = ("latency", "bandwidth", "vector", "vector bandwidth")
        assert names == [(o, n, c) for o in operations for n in (8, 4096) for c in ("full", "header")]
        assert all(map(fine, found))
        assert comm.rank != 0 or all((row.ours.values > 0).all() for row in found)


@pytest.mark.mpi(min_size=2)
def test_p2p_counts_what_arrives_wrong(comm, monkeypatch):
    """Where the two ends disagree on the content every byte is looked at."""
    monkeypatch.setattr(p2p, "pattern", lambda size, rank: np.full(size, rank, np.uint8) + (comm.rank == 1))
    found, _ = on_every_rank(comm, ranks.first(comm, 2, lambda pair: p2p.latency(pair, SHORT, 64)))
    assert comm.rank > 1 or all((row.wrong or 0) >= 64 for row in found)


@pytest.mark.mpi(min_size=2)
def test_a_vector_that_comes_out_wrong_while_it_is_timed_is_counted(comm, monkeypatch):
    """A codec that adds twice what it should from the first sample on."""
    timed = []
    build, interleave = p2p.four_bits, p2p.interleave

    def spoilt(elements):
        codec = build(elements)
        add = codec.accumulate
        codec.accumulate = lambda payload, out, weight, key: add(payload, out, weight * (1 + len(timed)), key)
        return codec

    monkeypatch.setattr(p2p, "four_bits", spoilt)
    monkeypatch.setattr(p2p, "interleave", lambda *a, **k: timed.append(1) or interleave(*a, **k))
    found, _ = on_every_rank(
        comm, ranks.first(comm, 2, lambda pair: p2p.vector(pair, SHORT, 600, p2p._stream))
    )
    assert comm.rank > 1 or all((row.wrong or 0) > 300 for row in found)


@pytest.mark.mpi(min_size=2)
def test_progress_has_a_row_for_each_direction_size_and_way_to_look(comm, monkeypatch):
    monkeypatch.setattr(progress, "LEAST_SECONDS", 2e-3)
    said: list[str] = []
    found, any_here = on_every_rank(
        comm, ranks.first(comm, 2, lambda pair: progress.rows(pair, SHORT, [8, 70_000], 0.5e-3, said.append))
    )
    assert any_here
    if comm.rank < 2:
        names = [tuple(row.parameters[key] for key in ("operation", "bytes", "looks")) for row in found]
        looks = ("poll", "thread")
        assert names == [(o, n, look) for o in ("send", "receive") for n in (8, 70_000) for look in looks]
        assert all(map(fine, found))
    if comm.rank == 0:
        assert all(row.derived["moved_share"] <= 1 and row.derived["transfer_us"] > 0 for row in found)
        assert all(row.ours.median > 1e-3 for row in found)  # the computation is in it


@pytest.mark.mpi(min_size=2)
def test_progress_counts_what_arrives_wrong(comm, monkeypatch):
    monkeypatch.setattr(progress, "pattern", lambda size, seed: np.full(size, comm.rank, np.uint8))

    def wrong(pair: MPI.Intracomm) -> list[int]:
        return [progress.Transfer(pair, operation, 64).wrong() for operation in progress.OPERATIONS]

    found = list(ranks.first(comm, 2, wrong))
    assert found == ([64, 64] if comm.rank < 2 else [])


@pytest.mark.mpi(min_size=2)
def test_the_thread_beside_a_computation_completes_what_it_is_handed_and_nothing_after(comm):
    """Rank 0 makes no call itself: the message of 8 MB, which needs its calls, arrives all the same."""
    done = True
    if comm.rank == 0:
        into = np.zeros(8 << 20, np.uint8)
        requests = [comm.Irecv([into, MPI.BYTE], 1, 5)]
        with progress.Looker(1e-3) as looker:
            looker.hand(requests)
            for _ in range(10_000):
                if into[-1]:
                    break
                sleep(1e-3)
            looker.hand([])
            later = [comm.Irecv([into, MPI.BYTE], 1, 6)]
        done = bool(into[-1]) and later[0] != MPI.REQUEST_NULL
        comm.Barrier()
        MPI.Request.Waitall(requests + later)
    else:
        if comm.rank == 1:
            comm.Send([np.ones(8 << 20, np.uint8), MPI.BYTE], 0, 5)
        comm.Barrier()
        if comm.rank == 1:
            comm.Send([np.ones(8, np.uint8), MPI.BYTE], 0, 6)
    assert comm.allreduce(done, MPI.LAND)


@pytest.mark.mpi(min_size=2)
def test_ingest_adds_up_what_every_client_sent(comm):
    found, any_here = on_every_rank(comm, ingest.rows(comm, SHORT, [300, 2000], received_row))
    assert any_here
    if comm.rank == 0:
        counts = sorted({row.parameters["clients"] for row in found})
        assert counts[0] == 1
        assert counts[-1] == comm.size - 1
        assert all(fine(row) and row.reference is not None for row in found)


@pytest.mark.mpi(min_size=2)
def test_ingest_keeps_the_driver_s_slots_on_rank_0_and_nothing_to_send(comm):
    peer = MPI.ANY_SOURCE if comm.rank == 0 else 0
    content = np.zeros(100, np.uint8)
    ours = paths.OurPath(comm, peer, content, ingest.under_way(comm))
    raw = paths.RawPath(comm, peer, content, ingest.under_way(comm))
    if comm.rank == 0:
        assert len(raw.into) == min(32, max(4, 2 * (comm.size - 1)))
        assert (ours.pool.made, len(raw.out)) == (0, 0)
    else:
        assert (ours.pool.made, len(raw.out)) == (2, 2)
    ours.close()


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", broadcast.ALGORITHMS)
def test_a_broadcast_is_timed_until_the_last_client_has_applied_it(comm, algorithm):
    found, any_here = on_every_rank(comm, broadcast.rows(comm, SHORT, [2000], [algorithm]))
    assert any_here
    assert fine(found[0])
    assert comm.rank != 0 or (found[0].ours.values > 0).all()
    assert "largest over the ranks" in found[0].reduction


@pytest.mark.mpi(min_size=2)
def test_a_start_has_a_row_for_each_phase_and_a_sample_for_each_rank(comm, monkeypatch):
    monkeypatch.setattr(marks, "MARKS", [])
    found, any_here = on_every_rank(comm, startup.rows(comm, wall.run, "digits"))
    assert any_here
    if comm.rank != 0:
        return
    assert [row.parameters["operation"] for row in found] == [
        "placement and handshake",
        "data and model",
        "kernels and trial training",
        "clocks and trace",
        "first step and end",
        "all",
    ]
    assert all(len(row.ours.values) == comm.size for row in found)


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_waits_leaves_a_shared_core_to_others(comm, monkeypatch):
    """Ours burns less than a quarter of it; no row's messages are wrong. What busy polling burns is what it gets, and
    that is little on a busy machine."""
    monkeypatch.setattr(backoff, "ASIDE_SECONDS", 10e-3)
    said: list[str] = []
    found, any_here = on_every_rank(
        comm, ranks.first(comm, 2, lambda pair: backoff.rows(pair, SHORT, said.append))
    )
    assert any_here
    if comm.rank != 0:
        return
    names = [tuple(row.parameters[key] for key in ("operation", "cores", "waits")) for row in found]
    assert len(set(names)) == len(names) == 9 * (2 - len(said))
    assert all(row.wrong == 0 and len(row.ours.values) >= 5 for row in found)
    idle = found[names.index(("idle", "shared", "ours"))]
    assert idle.reference is not None
    assert idle.derived["core_share"] < 0.25


@pytest.mark.mpi(min_size=2)
def test_binding_that_fails_on_one_rank_is_left_on_both(comm, monkeypatch):
    before = os.sched_getaffinity(0)
    bind = os.sched_setaffinity

    def refuses(pid: int, cores: set[int]) -> None:
        monkeypatch.setattr(os, "sched_setaffinity", bind)  # once
        raise OSError("not in this cpuset")

    pair = MPI.Intracomm(comm.Split(0 if comm.rank < 2 else 1, comm.rank))
    if comm.rank == 1:
        monkeypatch.setattr(os, "sched_setaffinity", refuses)
    if comm.rank < 2:
        with backoff._bound(pair, [min(before)] * 2) as bound:
            assert not bound
    assert os.sched_getaffinity(0) == before
    pair.Free()


@pytest.mark.mpi(min_size=2)
def test_overlap_and_tracing_read_the_trace_of_a_wall_run(comm, folder, monkeypatch):
    """On digits, not the CNN: the reading is what is tested."""
    monkeypatch.chdir(folder)
    quick = load("digits", ["clock.kind=wall", "stop.accuracy=1.0", "stop.uploads=80"])
    monkeypatch.setattr(overlap, "experiment", lambda uploads: quick)
    monkeypatch.setattr(tracing, "experiment", lambda uploads: quick)
    hidden, any_here = on_every_rank(comm, overlap.rows(comm, wall.run, alone.trainings, 80))
    assert any_here
    traced, any_here = on_every_rank(comm, tracing.rows(comm, SHORT, received_row, wall.run, 80))
    assert any_here
    if comm.rank == 0:
        (row,) = hidden
        assert 0 <= row.derived["hidden_share"] <= 1
        assert row.derived["communication_us"] > 0
        low, high = row.derived["exposed_ci95_us"]
        assert low < row.derived["exposed_us"] < high
        assert fine(row)
        assert len(row.reference.values) == len(row.ours.values)
        assert row.derived["uploads"] >= overlap.ROUNDS * 80
        message, run = traced
        assert len(run.ours.warmups) >= 3
        assert 0 < message.ours.median < 1e-3
        assert 0 < run.derived["share"] < 1
        assert list(folder.iterdir()) == []


@pytest.mark.mpi(min_size=2, max_size=2)
def test_digests_are_a_share_of_what_rank_0_does_in_a_wall_run(comm, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(digests, "ROUNDS", 1)
    rows, any_here = on_every_rank(comm, digests.rows(comm, SHORT, digester, wall.run, {2_000: 40}))
    assert any_here
    if comm.rank == 0:
        (row,) = rows
        found = row.columns()
        # In a run there is more to do for an upload than to add it up.
        assert found["reference_median_us"] < found["work_us"] < 1e5
        assert found["share"] < 1
        assert list(folder.iterdir()) == []


@pytest.mark.mpi(min_size=2)
def test_cores_are_counted_once_for_all_ranks_of_a_host(comm):
    assert not ranks.crowded(MPI.COMM_SELF)
    assert len({ranks.crowded(comm), bool(ranks.agree(comm)(ranks.crowded(comm)))}) == 1


@pytest.mark.mpi(min_size=3, max_size=3)
def test_data_that_ranks_share_take_the_memory_of_one_copy(comm):
    """40 MB; what else a process allocates meanwhile is some MB a rank."""
    found, any_here = on_every_rank(comm, data.rows(comm, 40))
    assert any_here
    if comm.rank == 0:
        copies, shared = found
        assert [row.parameters["operation"] for row in found] == ["a copy a rank", "one copy a host"]
        assert copies.wrong == shared.wrong == 0
        own = shared.derived["data_mb"]
        assert 40 < own < 70
        assert copies.derived["pss_mb"] > 0.9 * comm.size * own
        assert 0.9 * own < shared.derived["pss_mb"] < 1.5 * own


@pytest.mark.mpi(min_size=2)
def test_sizes_runs_each_size_and_counts_its_memory_and_messages(comm, folder, monkeypatch):
    monkeypatch.chdir(folder)
    found, any_here = on_every_rank(comm, sizes.rows(comm, wall.run, [800, 8000], "fedbuff", 4 * comm.size))
    assert any_here
    if comm.rank == 0:
        small, large = found
        assert not small.wrong
        assert not large.wrong
        assert 700 < small.parameters["d"] < 900
        assert 7500 < large.parameters["d"] < 8500
        assert [row.derived["upload_bytes"] for row in found] == [4 * row.parameters["d"] for row in found]
        assert all(row.derived["rank_0_mb"] > 10 and row.derived["client_mb"] > 10 for row in found)
        assert all((row.ours.values > 0).all() for row in found)
        assert list(folder.iterdir()) == []


def test_the_ranks_of_a_virtual_run_write_into_one_folder_which_goes_afterwards(comm):
    seen: list[Path] = []

    def drive(experiment, ranks, path):
        seen.append(path)
        (path.parent / str(ranks.rank)).touch()
        ranks.Barrier()
        assert len(list(path.parent.iterdir())) == ranks.size
        return SimpleNamespace(seconds=6.0, uploads=12)

    seconds = virtual.run_seconds(drive, load("digits", []), comm, trainings=12)
    (path,) = seen
    comm.Barrier()  # rank 0 has removed the folder
    assert seconds == 0.5
    assert str(path) == broadcast_text(comm, str(path))
    assert not path.parent.exists()


@pytest.mark.mpi(min_size=2, max_size=3)
def test_a_virtual_benchmark_has_the_rows_of_all_ranks_and_leaves_nothing(comm, folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    found, any_here = on_every_rank(comm, virtual.memory(virtual_run.run, comm, [100]))
    assert any_here
    assert "no rows of rank" not in capfd.readouterr().err
    if comm.rank == 0:
        assert found[0].derived["worker_mb"] > 10
        assert list(folder.iterdir()) == []
