"""Frames that are posted to ranks that have died."""

from types import SimpleNamespace

from mpi4py import MPI

from qafel_mpi.transport import mortal
from qafel_mpi.transport.frames import Sends, new_frame
from qafel_mpi.wire import Kind


def test_a_frame_is_lost_once_and_not_while_a_living_rank_is_sent_it(monkeypatch):
    def issend(spec, rank, tag):
        if rank in (1, 3):
            raise MPI.Exception(MPI.ERR_OTHER)
        return SimpleNamespace(Test=lambda: True)

    monkeypatch.setattr(mortal, "is_death", lambda error: True)
    sends = Sends(SimpleNamespace(Issend=issend), 7)
    frame = new_frame(0).seal(Kind.STOP)
    sends.post(frame, 1)
    sends.post(frame, 2)
    assert (sends.lost, frame.references) == ([], 1)
    sends.post(frame, 3)
    assert (sends.lost, frame.references) == ([], 1)
    assert [(sent.rank, sent.last) for sent in sends.poll()] == [(2, True)]
    sends.post(frame, 1)
    sends.post(frame, 3)
    assert [lost for lost, _ in sends.lost] == [frame]
