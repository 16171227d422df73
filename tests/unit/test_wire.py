"""The wire format: what is packed is read back, and nothing damaged gets through."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from qafel_mpi import wire
from qafel_mpi.wire import FLAG_ENTROPY, FLAG_HEADER_ONLY, Expected, Kind, Message, WireError

UPDATE = Expected(codec=2, bits=4, elements=100, payload_bytes=54)
EXPECTED = {Kind.UPDATE: UPDATE, Kind.BYE: Expected()}
HEADER_ONLY = wire.without_payload_checksum(EXPECTED)


def frame(flags: int = 0, **fields) -> memoryview:
    data = np.arange(64 + 54, dtype=np.uint8).data
    wire.write(data, Message(Kind.UPDATE, 2, 4, flags, elements=100, payload_bytes=54, **fields))
    return data


def crc32c(data: bytes | bytearray) -> int:
    """Bit by bit, from the definition: reflected, polynomial 0x1EDC6F41, all ones before and after."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def test_header_has_64_bytes_without_gaps():
    assert wire.HEADER.itemsize == 64
    assert sum(wire.HEADER[name].itemsize for name in wire.HEADER.names) == 64


def test_header_bytes_are_those_of_the_document():
    """Offsets and byte order, written by hand: another program may rely on them."""
    data = frame(client=0x01020304, version=5, sequence=6, seed=7, loss=1.0, train_seconds=2.0).tobytes()
    assert data[:8] == b"QFL1" + bytes([Kind.UPDATE, 2, 4, 0])
    assert data[8:12] == bytes([4, 3, 2, 1])
    assert data[16:56] == b"".join(n.to_bytes(8, "little") for n in (5, 6, 54, 100, 7))
    assert data[56:64] == b"\x00\x00\x80\x3f\x00\x00\x00\x40"


def test_crc_is_crc32c():
    """The check value of CRC-32C over "123456789"; the header's own field counts as zero."""
    buffer = np.zeros(64, dtype=np.uint8)
    assert crc32c(b"123456789") == 0xE3069283
    buffer[12:16] = 255
    assert wire.checksum(buffer.data) == crc32c(bytes(64))
    long = np.random.default_rng(0).integers(0, 256, 64 + 100_001, dtype=np.uint8)
    long[12:16] = 0
    assert wire.checksum(long.data) == crc32c(long.tobytes())


def test_with_the_flag_the_checksum_covers_the_header_alone():
    header = bytearray(frame(FLAG_HEADER_ONLY)[:64])
    said = int.from_bytes(header[12:16], "little")
    header[12:16] = bytes(4)
    assert said == crc32c(header)


@given(
    client=st.integers(0, 2**32 - 1),
    version=st.integers(0, 2**64 - 1),
    sequence=st.integers(0, 2**64 - 1),
    seed=st.integers(0, 2**64 - 1),
    loss=st.floats(width=32, allow_nan=False),
)
def test_check_gives_back_what_pack_was_given(client, version, sequence, seed, loss):
    buffer = frame(client=client, version=version, sequence=sequence, seed=seed, loss=loss)
    message = wire.check(buffer, EXPECTED, rank=1)
    assert (message.client, message.version, message.sequence) == (client, version, sequence)
    assert (message.seed, message.loss, message.kind) == (seed, loss, Kind.UPDATE)
    assert message.wire_bytes == len(buffer)


@given(loss=st.floats(allow_nan=False))
@example(loss=1e39)
@example(loss=-1e39)
def test_a_loss_is_sent_as_the_float32_that_it_rounds_to(loss):
    with np.errstate(over="ignore"):
        rounded = float(np.float32(loss))
    assert wire.check(frame(loss=loss), EXPECTED, rank=1).loss == rounded == wire.as_sent(loss)


@pytest.mark.parametrize(("flags", "expected"), [(0, EXPECTED), (FLAG_HEADER_ONLY, HEADER_ONLY)])
@given(bit=st.integers(0, 8 * 64 - 1))
def test_any_flipped_bit_of_a_header_is_caught(flags, expected, bit):
    """Also the flag's: it can't switch the check of the payload off, nor on."""
    buffer = frame(flags, client=3, version=9, sequence=4)
    wire.check(buffer, expected, rank=1)
    buffer[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(WireError):
        wire.check(buffer, expected, rank=1)


@given(bit=st.integers(8 * 64, 8 * (64 + 54) - 1))
def test_any_flipped_bit_of_a_payload_is_caught_unless_its_check_is_left_to_the_network(bit):
    buffer, unchecked = frame(), frame(FLAG_HEADER_ONLY)
    for data in (buffer, unchecked):
        data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(WireError, match="checksum"):
        wire.check(buffer, EXPECTED, rank=1)
    wire.check(unchecked, HEADER_ONLY, rank=1)


@pytest.mark.parametrize(("flags", "expected"), [(0, HEADER_ONLY), (FLAG_HEADER_ONLY, EXPECTED)])
def test_a_message_whose_checksum_covers_something_else_than_this_run_agreed_on_is_refused(flags, expected):
    with pytest.raises(WireError, match="flags") as error:
        wire.check(frame(flags), expected, rank=1)
    assert error.value.field == "flags"


def test_only_kinds_with_a_payload_say_that_it_is_not_covered():
    coded = Expected(2, 4, FLAG_ENTROPY, 100, 54, variable=True)
    changed = wire.without_payload_checksum({Kind.UPDATE: coded, Kind.BYE: Expected()})
    assert changed[Kind.UPDATE].flags == FLAG_ENTROPY | FLAG_HEADER_ONLY
    assert changed[Kind.BYE] == Expected()


@given(data=st.binary(max_size=200))
def test_foreign_bytes_are_refused_and_do_not_crash(data):
    with pytest.raises(WireError):
        wire.check(memoryview(data), EXPECTED, rank=2)


@pytest.mark.parametrize("length", [0, 63, 64, 117])
def test_a_truncated_message_is_refused(length):
    with pytest.raises(WireError):
        wire.check(frame()[:length], EXPECTED, rank=2)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("codec", Expected(3, 4, 0, 100, 54)),
        ("bits", Expected(2, 8, 0, 100, 54)),
        ("flags", Expected(2, 4, 1, 100, 54)),
        ("elements", Expected(2, 4, 0, 101, 54)),
        ("payload_bytes", Expected(2, 4, 0, 100, 55)),
        ("payload_bytes", Expected(2, 4, 0, 100, 53, variable=True)),
    ],
)
def test_a_message_of_another_configuration_is_refused_by_its_field(field, expected):
    with pytest.raises(WireError, match=field) as error:
        wire.check(frame(sequence=77), {Kind.UPDATE: expected}, rank=5)
    assert (error.value.field, error.value.rank, error.value.sequence) == (field, 5, 77)
    assert "rank 5" in str(error.value)
    assert "77" in str(error.value)


def test_a_kind_that_is_not_expected_here_is_refused():
    with pytest.raises(WireError, match="kind"):
        wire.check(frame(), {Kind.BYE: Expected()}, rank=1)


def test_a_variable_payload_may_be_shorter():
    expected = Expected(2, 4, 0, 100, 200, variable=True)
    assert wire.check(frame(), {Kind.UPDATE: expected}, rank=1).payload_bytes == 54
