"""The client of the wall-clock driver, as far as one process shows it."""

from threading import Event, RLock, Thread
from types import SimpleNamespace

import pytest
import torch

from qafel_mpi.drivers.wall_client import WallClient
from qafel_mpi.wire import WireError


def test_what_the_progress_thread_raises_ends_the_run():
    def poll():
        raise WireError("checksum", "damaged", rank=0, sequence=3)

    client = WallClient.__new__(WallClient)
    client.lock, client.encoding, client.failure = RLock(), None, None
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
