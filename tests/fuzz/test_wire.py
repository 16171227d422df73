"""Any bytes as a message: a WireError, or the very message that was sent."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qafel_mpi.wire import FLAG_HEADER_ONLY, HEADER_BYTES, Expected, Kind, Message, WireError, check, write
from tests.fuzz.bounds import bounded, inputs
from tests.fuzz.mutations import changed, changes

EXPECTED = {
    Kind.UPDATE: Expected(2, 4, 0, 100, 54),
    Kind.BROADCAST: Expected(2, 4, FLAG_HEADER_ONLY, 100, 54),
    Kind.TRAIN: Expected(payload_bytes=160, variable=True),
    Kind.BYE: Expected(),
}


def sent(kind: Kind, size: int) -> bytes:
    e = EXPECTED[kind]
    frame = bytearray(HEADER_BYTES + size)
    frame[HEADER_BYTES:] = bytes(range(size))
    write(
        memoryview(frame),
        Message(kind, e.codec, e.bits, e.flags, 3, 4, 5, size, e.elements, 6, 0.5, 0.25),
    )
    return bytes(frame)


FRAMES = [sent(Kind.UPDATE, 54), sent(Kind.BROADCAST, 54), sent(Kind.TRAIN, 32), sent(Kind.BYE, 0)]


def accepted(data: bytes) -> Message | None:
    with bounded():
        try:
            return check(np.frombuffer(data, np.uint8).data, EXPECTED, rank=1)
        except WireError as error:
            assert str(error).startswith("message ")
            return None


@given(data=st.binary(max_size=400))
@inputs(300)
def test_bytes_of_nobody_are_refused(data):
    assert accepted(data) is None or data in FRAMES


@given(frame=st.sampled_from(FRAMES), done=changes())
@inputs(300)
def test_a_changed_message_is_refused(frame, done):
    """A header's checksum covers what FLAG_HEADER_ONLY leaves of it, and the payload is a network's to check then."""
    data = changed(frame, done)
    covered = HEADER_BYTES if frame == FRAMES[1] else len(frame)
    if accepted(data) is not None:
        assert any(data[:covered] == one[:covered] and len(data) == len(one) for one in FRAMES)
