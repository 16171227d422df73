"""Every algorithm of the broadcast on real ranks: order, content, bounds, and a clean end."""

from __future__ import annotations

import itertools
import time

import pytest
from mpi4py import MPI

from qafel_mpi.transport import broadcast, large, tree
from qafel_mpi.transport.backoff import Backoff, wait_until
from qafel_mpi.transport.config import TransportConfig
from qafel_mpi.transport.frames import Sent
from qafel_mpi.wire import Expected, Kind, check

TAG = 9
PAYLOAD = 70_000  # above every eager limit: what is not taken stays with its sender
BROADCAST = Expected(elements=PAYLOAD, payload_bytes=PAYLOAD)


def until(ready, waits=lambda: "the test", patience_s=10.0) -> None:
    wait_until(ready, waits, patience_s=patience_s, backoff=Backoff(crowded=True))


class Run:
    """One stream of `versions` broadcasts and its end; `slow` clients sleep pause_s at each."""

    def __init__(self, comm, algorithm, versions, *, slow=(), pause_s=0.0, queue_limit=3, patience_s=10.0):
        self.comm, self.versions = comm, versions
        self.config = TransportConfig(broadcast=algorithm, queue_limit=queue_limit)
        self.patience_s = patience_s
        self.pause_s = pause_s if comm.rank in slow else 0.0
        self.seen: list[int] = []
        self.waited = self.most_ahead = self.sent = self.received = 0
        self.done: list[Sent] = []  # by rank 0
        if comm.rank == 0:
            self.publish()
        else:
            self.listen()
        comm.Barrier()

    def publish(self) -> None:
        root = broadcast.root(
            self.config, self.comm, TAG, payload_bytes=PAYLOAD, log_length=self.versions, catch_up=None
        )

        def poll() -> list[Sent]:
            done = root.poll()
            self.done += done
            return done

        for version in range(self.versions):
            self.waited += not root.ready
            until(lambda: not poll() and root.ready, root.waits, self.patience_s)
            frame = root.frame()
            frame.payload[:] = version % 256
            root.publish(
                frame.seal(Kind.BROADCAST, payload_bytes=PAYLOAD, expected=BROADCAST, version=version)
            )
        root.end(self.versions)
        until(lambda: not poll() and root.idle)
        self.made, self.sent, self.link_bytes = root.pool.made, root.total, root.link_bytes
        root.close()

    def listen(self) -> None:
        leaf = broadcast.leaf(
            self.config,
            self.comm,
            TAG,
            payload_bytes=PAYLOAD,
            catch_up_bytes=0,
            slots=self.config.queue_limit,
        )
        expected = {Kind.BROADCAST: BROADCAST, Kind.STOP: leaf.stop}
        stopped = False

        def turn() -> bool:
            nonlocal stopped
            leaf.passed()
            for received in leaf.poll():
                message = check(received.data, expected, rank=received.source)
                leaf.pass_on(received, message)
                if message.kind == Kind.STOP:
                    stopped = True
                else:
                    assert (received.payload == message.version % 256).all(), (
                        "a frame was reused while MPI still read it"
                    )
                    assert not stopped, "a broadcast came behind the STOP"
                    self.seen.append(message.version)
                    time.sleep(self.pause_s)
                leaf.release(received.slot)
            return stopped and leaf.idle

        until(turn)
        self.received, self.sent = leaf.total, leaf.passed_total
        leaf.close()

    def everywhere(self, ok: bool) -> bool:
        return bool(self.comm.allreduce(int(ok), MPI.MIN))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("queue_limit", [1, 4])
@pytest.mark.parametrize("algorithm", broadcast.ALGORITHMS)
def test_every_rank_gets_every_version_in_order_and_all_that_was_sent_arrives(comm, algorithm, queue_limit):
    run = Run(comm, algorithm, 100, queue_limit=queue_limit)
    assert run.everywhere(run.seen == (list(range(100)) if comm.rank else []))
    assert comm.allreduce(run.sent) == comm.allreduce(run.received)
    assert run.everywhere(comm.rank != 0 or run.link_bytes == 100 * PAYLOAD * (comm.size - 1))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", broadcast.ALGORITHMS)
def test_a_message_that_is_larger_than_one_call_of_mpi_takes_goes_by_every_broadcast(
    comm, algorithm, monkeypatch
):
    """The limit is lowered to below a frame's bytes: 2^31 − 1 in truth."""
    monkeypatch.setattr(large, "MOST_BYTES", PAYLOAD // 2)
    monkeypatch.setattr(large, "PART_BYTES", PAYLOAD // 3)
    monkeypatch.setattr(large, "BLOCK_BYTES", 48)
    run = Run(comm, algorithm, 20, queue_limit=2)
    assert run.everywhere(run.seen == (list(range(20)) if comm.rank else []))


@pytest.mark.mpi(min_size=3)
@pytest.mark.parametrize("queue_limit", [1, 4])
def test_large_messages_go_down_the_tree_one_at_a_time(comm, monkeypatch, queue_limit):
    """No two of rank 0's sends overlap, where together they would: it has two children at least."""
    overlaps = {}
    for least_bytes in (PAYLOAD, PAYLOAD + 1):
        monkeypatch.setattr(tree, "IN_TURN_BYTES", least_bytes)
        run = Run(comm, "tree", 60, queue_limit=queue_limit)
        assert run.everywhere(run.seen == (list(range(60)) if comm.rank else []))
        assert comm.allreduce(run.sent) == comm.allreduce(run.received)
        large = sorted((s.t_post, s.t_complete) for s in run.done if s.message.payload_bytes)
        overlaps[least_bytes] = sum(post < before for (_, before), (post, _) in itertools.pairwise(large))
    assert run.everywhere(comm.rank != 0 or (overlaps[PAYLOAD] == 0 and overlaps[PAYLOAD + 1] > 0))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("algorithm", ["tree", "ibcast"])
def test_a_slow_client_holds_rank_0_back_and_nobody_queues_up(comm, algorithm):
    """Nothing is skipped; rank 0 waits and holds a few frames, whichever client is slow, a leaf or a root's child."""
    for slow in {1, comm.size - 1}:
        run = Run(comm, algorithm, 60, slow=(slow,), pause_s=0.006, queue_limit=3)
        assert run.everywhere(run.seen == (list(range(60)) if comm.rank else []))
        assert run.everywhere(comm.rank != 0 or (run.waited > 10 and run.made <= 3 + 2))


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(
    ("algorithm", "who"),
    [("tree", "of the tree, or a rank below, to take"), ("ibcast", "at least one has applied fewer")],
)
def test_rank_0_says_whom_it_waits_for(comm, algorithm, who, capfd):
    clients = range(1, comm.size)
    run = Run(comm, algorithm, 3, slow=clients, pause_s=0.3, queue_limit=1, patience_s=0.05)
    said = capfd.readouterr().err
    assert run.everywhere(comm.rank != 0 or who in said)
