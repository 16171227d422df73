"""The transport on real ranks: order, bounds, clocks, the handshake."""

import re
import socket
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from time import perf_counter

import numpy as np
import pytest
from mpi4py import MPI

from qafel_mpi import wire
from qafel_mpi.transport import large, placement
from qafel_mpi.transport.assignment import Gpu
from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.clocks import clocks, synchronise
from qafel_mpi.transport.coverage import coverage
from qafel_mpi.transport.fanout import FanOut
from qafel_mpi.transport.frames import FramePool, Sends, new_frame
from qafel_mpi.transport.inbox import Inbox
from qafel_mpi.transport.placement import PlacementError, place
from qafel_mpi.wire import Expected, Kind, check

PAYLOAD = 1000
GPUS = (Gpu(0, "GPU-a"), Gpu(1, "GPU-b"))
BROADCAST = Expected(elements=PAYLOAD, payload_bytes=PAYLOAD)
MODEL = Expected(elements=PAYLOAD, payload_bytes=PAYLOAD * 3)
EXPECTED = {Kind.BROADCAST: BROADCAST, Kind.MODEL: MODEL, Kind.STOP: Expected()}


def until(ready) -> None:
    wait_until(ready, lambda: "the test", patience_s=10.0, backoff=Backoff(crowded=True))


def fan_out(comm, sends, log_length=3, queue_limit=2, *, whole=False) -> FanOut:
    """whole: each payload is the model itself."""

    def catch_up(model):
        model.payload[:] = fanout.version % 256
        return model.seal(Kind.MODEL, payload_bytes=3 * PAYLOAD, expected=MODEL, version=fanout.version)

    fanout = FanOut(
        sends,
        FramePool(PAYLOAD),
        range(1, comm.size),
        queue_limit=queue_limit,
        log_length=1 if whole else log_length,
        catch_up=None if whole else catch_up,
        model_bytes=3 * PAYLOAD,
    )
    return fanout


def publish(fanout) -> None:
    frame = fanout.frame()
    frame.payload[:] = fanout.version % 256
    fanout.publish(
        frame.seal(Kind.BROADCAST, payload_bytes=PAYLOAD, expected=BROADCAST, version=fanout.version)
    )


def broadcast(comm, versions, *, reader_pause=0, log_length=3, queue_limit=2):
    """Rank 0 publishes `versions` frames as fast as it can; returns (FanOut, None) or (None, versions seen)."""
    if comm.rank == 0:
        sends = Sends(comm, 7)

        fanout = fan_out(comm, sends, log_length, queue_limit)
        for _ in range(versions):
            publish(fanout)
            fanout.poll()
        until(lambda: not fanout.poll() and fanout.idle)
        stop = new_frame(0).seal(Kind.STOP)
        for rank in range(1, comm.size):
            sends.post(stop, rank)
        until(lambda: not fanout.poll() and not len(sends))
        return fanout, None
    inbox = Inbox(comm, 7, payload_bytes=3 * PAYLOAD, slots=2, source=0)
    seen: list[tuple[Kind, int]] = []

    def stopped() -> bool:
        for received in inbox.poll():
            message = check(received.data, EXPECTED, rank=0)
            assert (received.payload == message.version % 256).all(), (
                "a frame was reused while MPI still read it"
            )
            inbox.release(received.slot)
            if message.kind == Kind.STOP:
                return True
            seen.append((message.kind, message.version))
            begun = perf_counter()
            while perf_counter() < begun + reader_pause:
                pass
        return False

    until(stopped)
    inbox.close()
    return None, seen


@pytest.mark.mpi(min_size=2)
def test_broadcasts_arrive_in_order_on_every_rank(comm):
    _, seen = broadcast(comm, 200, log_length=1000)
    ok = seen is None or seen == [(Kind.BROADCAST, v) for v in range(200)]
    assert comm.allreduce(int(ok), MPI.MIN) == 1


@pytest.mark.mpi(min_size=2)
def test_a_slow_rank_catches_up_and_rank_0_holds_few_frames(comm):
    """The reader takes 2 ms a message, the writer microseconds: the log is outrun, memory stays flat."""
    fanout, seen = broadcast(comm, 400, reader_pause=0.002)
    ok = True
    if fanout is not None:
        ok = fanout.pool.made <= 3 + 1 + 2 * (comm.size - 1) and fanout.skipped > 0
    else:
        versions = [v for _, v in seen]
        kinds = {kind for kind, _ in seen}
        # A difference follows the version it applies to: its own predecessor, or a full state of that version.
        chained = all(
            kind == Kind.MODEL or version == (before + 1 if known == Kind.BROADCAST else before)
            for (known, before), (kind, version) in pairwise(seen)
        )
        last = versions[-1] == (399 if seen[-1][0] == Kind.BROADCAST else 400)
        ok = chained and last and Kind.MODEL in kinds and len(seen) < 400
    assert comm.allreduce(int(ok), MPI.MIN) == 1


class Stream:
    """Rank 0's fan-out, whose messages each other rank takes when told to: what rank 0 holds is then certain."""

    def __init__(self, comm, *, whole=False):
        self.comm = comm
        self.fanout = fan_out(comm, Sends(comm, 7), whole=whole) if comm.rank == 0 else None
        self.seen: list[tuple[Kind, int]] = []
        self.right: list[bool] = []

    def publish(self, versions) -> None:
        """Collective: nobody takes anything meanwhile."""
        for _ in range(versions if self.fanout is not None else 0):
            publish(self.fanout)
            self.fanout.poll()
        self.comm.Barrier()

    def take(self, *ranks) -> None:
        """Collective: these ranks take a message each, and rank 0 sees it."""
        if self.comm.rank in ranks:
            self._receive()
        if self.fanout is not None:
            late = set(ranks)

            def seen() -> bool:
                late.difference_update(sent.rank for sent in self.fanout.poll())
                return not late

            until(seen)
        self.comm.Barrier()

    def end(self) -> None:
        """Collective: every rank takes what is left."""
        if self.fanout is not None:
            self.fanout.end(self.fanout.version)
            until(lambda: not self.fanout.poll() and self.fanout.idle)
        while self.comm.rank and (not self.seen or self.seen[-1][0] != Kind.STOP):
            self._receive()

    def expect(self, right: Callable[[FanOut], bool]) -> None:
        if self.fanout is not None:
            self.right.append(right(self.fanout))

    def check(self, seen: Callable[[int], bool]) -> None:
        """Collective: all that was expected holds, and seen(rank) on the ranks that receive."""
        right = all(self.right) if self.comm.rank == 0 else seen(self.comm.rank)
        assert self.comm.allreduce(int(right), MPI.MIN) == 1, self.right or self.seen

    def _receive(self) -> None:
        data, status = np.empty(wire.HEADER_BYTES + 3 * PAYLOAD, np.uint8), MPI.Status()
        self.comm.Recv([data, MPI.BYTE], 0, 7, status)
        message = check(data[: status.Get_count(MPI.BYTE)].data, EXPECTED, rank=0)
        self.seen.append((Kind(message.kind), message.version))


@pytest.mark.mpi(min_size=2)
def test_a_rank_that_fell_behind_has_one_catch_up_under_way_and_it_is_the_newest(comm):
    everybody, stream = range(1, comm.size), Stream(comm)
    stream.publish(20)
    stream.take(*everybody)
    stream.publish(20)
    # One of the first two is taken: there is room for another, but a full state would be old when its turn came.
    stream.expect(lambda f: all(f.sends.under_way(r) == 1 for r in everybody) and f.models.made == 0)
    stream.take(*everybody)
    stream.expect(lambda f: all(f.sends.under_way(r) == 1 for r in everybody) and f.models.made == 1)
    stream.take(*everybody)
    stream.publish(20)
    stream.end()
    stream.expect(lambda f: f.models.made == len(f.models.free) and f.pool.made <= 3 + 1 + 2)
    stream.expect(lambda f: f.skipped == 56 * (comm.size - 1))
    broadcasts = [(Kind.BROADCAST, v) for v in (0, 1, 40, 41)]
    known = [*broadcasts[:2], (Kind.MODEL, 40), *broadcasts[2:], (Kind.MODEL, 60), (Kind.STOP, 60)]
    stream.check(lambda rank: stream.seen == known)


@pytest.mark.mpi(min_size=2)
def test_where_a_payload_is_the_model_a_rank_that_fell_behind_gets_the_newest_and_skips_the_rest(comm):
    stream = Stream(comm, whole=True)
    stream.publish(20)
    stream.end()
    stream.expect(lambda f: f.skipped == 17 * (comm.size - 1) and f.models.made == 0)
    stream.check(lambda rank: [v for _, v in stream.seen] == [0, 1, 19, 20])


@pytest.mark.mpi(min_size=3)
def test_ranks_that_fell_behind_at_different_times_wait_for_the_few_full_states_there_may_be(
    comm, monkeypatch
):
    monkeypatch.setattr("qafel_mpi.transport.fanout.MODELS", 1)
    stream = Stream(comm)
    stream.publish(20)
    stream.take(1)
    stream.take(1)
    stream.publish(20)  # one full state is under way to rank 1, of version 20
    stream.take(2)
    stream.take(2)
    stream.expect(lambda f: f.sends.under_way(2) == 0 and 2 in f.behind and f.models.made == 1)
    stream.take(1)
    stream.expect(lambda f: f.sends.under_way(2) == 1 and f.models.made == 1)
    stream.take(2)
    stream.end()
    models = {1: [20, 40], 2: [40]}
    stream.check(lambda rank: [v for k, v in stream.seen if k == Kind.MODEL] == models.get(rank, [40]))


@pytest.mark.mpi(min_size=3)
def test_a_poll_looks_at_a_few_ranks_and_all_have_their_turn(comm, monkeypatch):
    monkeypatch.setattr("qafel_mpi.transport.frames.AT_ONCE", 1)
    each = 3
    if comm.rank == 0:
        sends, found = Sends(comm, 7), []
        for sequence in range(each):
            for rank in range(1, comm.size):
                sends.post(new_frame(10).seal(Kind.BROADCAST, payload_bytes=10, sequence=sequence), rank)
        comm.Barrier()  # all are matched
        polls: list[set[int]] = []

        def poll() -> bool:
            done = sends.poll()
            polls.append({sent.rank for sent in done})
            found.extend((sent.rank, sent.message.sequence) for sent in done)
            return not len(sends)

        until(poll)
        in_order = sorted(found) == [(r, k) for r in range(1, comm.size) for k in range(each)]
        ok = in_order and all(len(ranks) <= 1 for ranks in polls) and not sends.late()
    else:
        data = [np.empty(wire.HEADER_BYTES + 10, np.uint8) for _ in range(each)]
        requests = [comm.Irecv([d, MPI.BYTE], 0, 7) for d in data]
        comm.Barrier()
        MPI.Request.Waitall(requests)
        ok = True
    assert comm.allreduce(int(ok), MPI.MIN) == 1


@pytest.mark.mpi(min_size=2)
def test_skewed_clocks_are_recovered_within_the_bound(comm):
    skew = 1000.0 * comm.rank + 0.25
    readings = synchronise(comm, rounds=20, clock=lambda: perf_counter() + skew)
    ok = all(abs(r.offset_s + 1000.0 * r.rank) <= r.error_bound_s + 1e-6 for r in readings)
    assert comm.allreduce(int(ok), MPI.MIN) == 1
    assert len(readings) == (comm.size if comm.rank == 0 else 0)


@pytest.mark.mpi(min_size=2)
def test_clocks_that_drift_are_read_while_every_rank_works(comm):
    """Rank 0 asks whenever 10 ms have passed; the others train for 1 ms between two looks. Offset and drift are
    recovered, and the reading found while a rank waited for the next question is as good as one at the beginning."""
    drift = 1e-3 * comm.rank

    def skewed() -> float:
        return perf_counter() * (1 + drift) - 50.0 * comm.rank

    side = clocks(comm, rounds=20, every_s=0.01, clock=skewed)
    readings = side.synchronise()

    def work(over) -> None:
        while not over():
            readings.extend(side.poll())
            until_s = perf_counter() + (1e-3 if comm.rank else 0)
            while perf_counter() < until_s:
                pass

    end_s = perf_counter() + 0.4

    def enough() -> bool:
        """Two of each rank, besides the one at the beginning."""
        each = Counter(r.rank for r in readings)
        return perf_counter() >= end_s and all(each[rank] >= 3 for rank in range(1, comm.size))

    if comm.rank == 0:
        work(enough)
        for rank in range(1, comm.size):
            comm.Send([np.zeros(1), MPI.DOUBLE], rank, 2)
    else:
        work(comm.Irecv([np.empty(1), MPI.DOUBLE], 0, 2).Test)
        end_s = perf_counter() + 0.02 * comm.rank  # some come late to the end
        work(lambda: perf_counter() >= end_s)
    readings += side.synchronise()
    side.close()
    ok = True
    for rank in range(1, comm.size) if comm.rank == 0 else ():
        own = [r for r in readings if r.rank == rank]
        true_s = [(r.local_s + 50.0 * rank) / (1 + 1e-3 * rank) for r in own]
        wrong_s = [abs(r.local_s + r.offset_s - true) for r, true in zip(own, true_s, strict=True)]
        ok &= all(w <= r.error_bound_s + 1e-7 for w, r in zip(wrong_s, own, strict=True))
        ok &= len(own) >= 4 and true_s == sorted(true_s)
    assert comm.allreduce(int(ok), MPI.MIN) == 1


@pytest.mark.mpi(min_size=3)
def test_a_rank_that_does_not_look_keeps_no_other_from_being_asked_again(comm):
    """Rank 1 trains on and on: it answers at the end."""
    side = clocks(comm, rounds=3, every_s=0.01)
    readings = side.synchronise()
    stop = comm.Irecv([np.empty(1), MPI.DOUBLE], 0, 2) if comm.rank else None
    if comm.rank == 0:

        def asked_again() -> bool:
            readings.extend(side.poll())
            return all(sum(r.rank == rank for r in readings) >= 4 for rank in range(2, comm.size))

        until(asked_again)
        for rank in range(1, comm.size):
            comm.Send([np.zeros(1), MPI.DOUBLE], rank, 2)
    elif stop is not None:
        until(lambda: (comm.rank == 1 or side.poll() == []) and stop.Test())
    waited: list[str] = []

    def wait(ready, what) -> None:
        waited.append(what)
        until(ready)

    readings += side.synchronise(wait)
    side.close()
    # The others may have had all of their questions in their last poll.
    ok = {"rank 0 to ask for its time"} == set(waited) or comm.rank != 1
    ok &= comm.rank != 0 or sum(r.rank == 1 for r in readings) == 2
    assert comm.allreduce(int(ok), MPI.MIN) == 1, waited


@pytest.mark.mpi
def test_placement_shares_gpus_round_robin_and_cores_fairly(comm):
    spot = place(comm, gpus=GPUS, bind=False)
    first = 1 if comm.size > 1 else 0  # rank 0 of several serves
    assert spot.gpu == (None if spot.local_rank < first else (spot.local_rank - first) % 2)
    assert spot.cores
    assert spot.threads >= 1
    assert spot.local_ranks == comm.size


@pytest.mark.mpi(min_size=3)
def test_more_ranks_than_gpus_are_reported_or_without_permission_refused_by_host_on_every_rank(comm):
    said = f"{socket.gethostname()}: {comm.size - 1} ranks share 1 GPU"
    spot = place(comm, gpus=GPUS[:1], bind=False)
    assert spot.shared == ((said,) if comm.rank == 0 else ())
    assert spot.gpu_ranks == (comm.size - 1 if comm.rank else 0)
    with pytest.raises(PlacementError, match=re.escape(said)):
        place(comm, gpus=GPUS[:1], share_gpus=False, bind=False)


@pytest.mark.mpi(min_size=3)
def test_ranks_that_find_no_gpu_where_others_do_are_reported_or_without_permission_refused(comm):
    mine = GPUS[:1] if comm.rank == 1 else ()
    said = f"{socket.gethostname()}: {comm.size - 2} rank{'s see' if comm.size > 3 else ' sees'} no GPU"
    assert place(comm, gpus=mine, bind=False).blind == ((said,) if comm.rank == 0 else ())
    with pytest.raises(PlacementError, match=re.escape(f"{said}, others do")):
        place(comm, gpus=mine, share_gpus=False, bind=False)


@pytest.mark.mpi(min_size=2)
def test_a_job_without_any_gpu_runs_and_says_so_only_where_gpus_were_asked_for(comm):
    said = f"{socket.gethostname()}: {comm.size - 1} rank{'s see' if comm.size > 2 else ' sees'} no GPU"
    for share in (True, False):
        spot = place(comm, share_gpus=share, bind=False)
        assert spot.blind == ((said,) if comm.rank == 0 and not share else ())
    serving = place(comm, gpus=GPUS if comm.rank else (), share_gpus=True, bind=False)
    assert serving.blind == (), "rank 0 serves from the host's memory"


@pytest.mark.mpi(min_size=2)
def test_checksums_leave_payloads_out_on_one_host_or_where_gpus_send_them_on_every_rank(comm, monkeypatch):
    for wanted in ("full", "header"):
        assert coverage(comm, wanted, local_ranks=1) == wanted
    some = comm.size - 1  # ranks on this host, where there is another
    for local_ranks, aware, answer in [
        (comm.size, [False] * comm.size, "header"),
        (some, [None] * comm.size, "full"),
        (some, [True] * comm.size, "header"),
        (some, [True] * some + [False], "full"),
    ]:
        monkeypatch.setattr(placement, "gpu_aware", lambda aware=aware: aware[comm.rank])
        assert coverage(comm, "auto", local_ranks=local_ranks) == answer


@pytest.mark.mpi(min_size=2)
def test_whoever_waits_long_says_for_what(comm, capfd):
    begun = perf_counter()
    wait_until(
        lambda: perf_counter() > begun + 0.25,
        lambda: "rank 1 waits for rank 0",
        patience_s=0.1,
        backoff=Backoff(crowded=True),
    )
    assert "rank 1 waits for rank 0" in capfd.readouterr().err


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("nudges", [False, True], ids=["polled", "nudged"])
@pytest.mark.parametrize("source", [0, MPI.ANY_SOURCE], ids=["from rank 0", "from anybody"])
def test_a_large_message_ahead_of_small_ones_keeps_its_place(comm, source, nudges):
    sizes = [3_000_000, 10, 10, 3_000_000, 10]
    if comm.rank == 0:
        sends = Sends(comm, 9)
        for k, size in enumerate(sizes):
            frame = new_frame(size)
            frame.payload[:] = 1
            frame.seal(Kind.BROADCAST, payload_bytes=size, sequence=k)
            for rank in range(1, comm.size):
                sends.post(frame, rank)
        until(lambda: not sends.poll() and not len(sends))
        order = list(range(5))
    else:
        inbox = Inbox(comm, 9, payload_bytes=max(sizes), slots=3, source=source)
        order = []

        def done() -> bool:
            for received in inbox.poll():
                order.append(int.from_bytes(received.data[24:32], "little"))
                inbox.release(received.slot)
            if nudges:
                inbox.nudge()
                inbox.nudge()
            return len(order) == 5

        until(done)
        assert inbox.total == 5
        inbox.close()
    assert comm.allreduce(int(order == list(range(5))), MPI.MIN) == 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("peer", [0, None], ids=["persistent", "one by one"])
def test_uploads_larger_than_one_call_of_mpi_takes_arrive_whole_beside_small_ones(comm, peer, monkeypatch):
    """The limit is lowered to below a frame's bytes: 2^31 − 1 in truth. Buffers are those of one message."""
    monkeypatch.setattr(large, "MOST_BYTES", 500)
    monkeypatch.setattr(large, "BLOCK_BYTES", 48)
    sizes = [PAYLOAD, 10, 700, PAYLOAD, 436, 437]  # with a header at, just below and above the limit
    kinds = {Kind.UPDATE: Expected(payload_bytes=PAYLOAD, variable=True)}
    right = True
    if comm.rank == 0:
        inbox = Inbox(comm, 9, payload_bytes=PAYLOAD, slots=2, source=MPI.ANY_SOURCE)
        found = {rank: [] for rank in range(1, comm.size)}

        def all_there() -> bool:
            for received in inbox.poll():
                message = check(received.data, kinds, rank=received.source)
                assert received.wire_bytes == wire.HEADER_BYTES + message.payload_bytes
                assert (received.payload == received.source + message.sequence).all()
                found[received.source].append(message.payload_bytes)
                inbox.release(received.slot)
            return all(len(some) == len(sizes) for some in found.values())

        until(all_there)
        right = all(some == sizes for some in found.values())
        inbox.close()
    else:
        sends = Sends(comm, 9, peer)
        for k, size in enumerate(sizes):
            frame = new_frame(size)
            frame.payload[:] = comm.rank + k
            sends.post(
                frame.seal(Kind.UPDATE, payload_bytes=size, expected=kinds[Kind.UPDATE], sequence=k), 0
            )
        until(lambda: not sends.poll() and not len(sends))
        sends.close()
    assert comm.allreduce(int(right), MPI.MIN) == 1


@pytest.mark.mpi(min_size=2)
def test_all_that_a_rank_sent_before_a_message_has_come_once_all_has_that_was_matched_before(comm):
    if comm.rank:
        sends = Sends(comm, 9)
        for size in (3_000_000, 10):  # the second one may be here first
            sends.post(new_frame(size).seal(Kind.UPDATE, payload_bytes=size), 0)
        until(lambda: not sends.poll() and not len(sends))
        settled = True
    else:
        inbox = Inbox(comm, 9, payload_bytes=3_000_000, slots=4, source=MPI.ANY_SOURCE)
        large, last, early = set(), {}, set()

        def done() -> bool:
            for received in inbox.poll():
                if received.payload.size == 10:
                    last[received.source] = received.number
                else:
                    large.add(received.source)
                inbox.release(received.slot)
            inbox.nudge()
            early.update(
                rank for rank, number in last.items() if inbox.all_before(number) and rank not in large
            )
            return len(large) == len(last) == comm.size - 1

        until(done)
        settled = not early and all(map(inbox.all_before, last.values()))
        inbox.close()
    assert comm.allreduce(int(settled), MPI.MIN) == 1


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("under_way", [0, 2], ids=["all taken", "some under way"])
def test_a_rank_that_is_astray_gets_the_newest_state_behind_what_is_under_way(comm, under_way):
    """Its queue may be full, and it needs no new version."""
    if comm.rank == 0:
        sends = Sends(comm, 7)
        fanout = fan_out(comm, sends)
        for _ in range(3):
            publish(fanout)
            if not under_way:
                until(lambda: not fanout.poll() and fanout.idle)
        fanout.resynchronise(1)
        mends = [fanout.mends(1, version) for version in (2, 3, 4)]
        until(lambda: not fanout.poll() and fanout.idle)
        fanout.end(fanout.version)
        until(lambda: not fanout.poll() and fanout.idle)
        ok = mends == [True, False, False] and fanout.astray == {1: 3} and not fanout.mends(2, 0)
    else:
        inbox = Inbox(comm, 7, payload_bytes=3 * PAYLOAD, slots=1, source=0)
        seen: list[tuple[int, int]] = []

        def done() -> bool:
            for received in inbox.poll():
                message = check(received.data, EXPECTED, rank=0)
                seen.append((message.kind, message.version))
                inbox.release(received.slot)
            return bool(seen) and seen[-1][0] == Kind.STOP

        until(done)
        inbox.close()
        last = (Kind.MODEL, 3) if comm.rank == 1 else (Kind.BROADCAST, 2)
        ok = seen[-2] == last and [v for kind, v in seen if kind == Kind.BROADCAST][:2] == [0, 1]
    assert comm.allreduce(int(ok), MPI.MIN) == 1


@pytest.mark.mpi(min_size=3)
def test_a_frame_sent_to_several_ranks_is_free_once(comm):
    """Sends of one frame that complete in the same poll must not hand it back twice."""
    if comm.rank == 0:
        sends = Sends(comm, 8)
        frame = new_frame(10).seal(Kind.BROADCAST, payload_bytes=10)
        for rank in range(1, comm.size):
            sends.post(frame, rank)
        comm.Barrier()  # every receive is posted: all complete at once
        done = []
        until(lambda: done.extend(sends.poll()) or len(done) == comm.size - 1)
        freed = sum(sent.last for sent in done)
    else:
        request = comm.Irecv([np.empty(74, np.uint8), MPI.BYTE], 0, 8)
        comm.Barrier()
        until(request.Test)
        freed = 1
    assert comm.allreduce(int(freed == 1), MPI.MIN) == 1
