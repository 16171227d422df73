"""The client of the wall-clock driver, as far as one process shows it."""

from threading import Event, RLock, Thread, current_thread
from types import SimpleNamespace

import pytest
import torch

from qafel_mpi.drivers.survival.holding import NeverHeld
from qafel_mpi.drivers.wall.client import WallClient
from qafel_mpi.wire import WireError


def test_what_the_progress_thread_raises_ends_the_run():
    def poll():
        raise WireError("checksum", "damaged", rank=0, sequence=3)

    client = WallClient.__new__(WallClient)
    client.lock, client.encoding, client.failure = RLock(), None, None
    client.held = NeverHeld()
    client.replica = SimpleNamespace(x_hat=torch.zeros(1))
    client.inbox = SimpleNamespace(poll=poll)
    client._end = Event()
    thread = Thread(target=client._progress_loop)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    client.inbox.poll = list  # from here on nothing else goes wrong
    with pytest.raises(WireError, match="damaged"):
        client._progress()


def test_the_progress_thread_ends_with_what_training_raises():
    begun, threads = Event(), set()

    def progress():
        threads.add(current_thread())
        begun.set()

    def participate():
        assert begun.wait(10)
        raise ValueError("no such client")

    client = WallClient.__new__(WallClient)
    client.threaded, client.stopped = True, False
    client.replica = SimpleNamespace(x_hat=torch.zeros(1))
    client._progress, client._participate = progress, participate
    with pytest.raises(ValueError, match="no such client"):
        client.run()
    assert [thread.is_alive() for thread in threads] == [False]
