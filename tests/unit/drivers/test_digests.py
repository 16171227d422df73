"""Digests of payloads: known values, and what they tell apart."""

import numpy as np

from qafel_mpi.drivers.digests import digest, digester


def test_the_digest_is_crc_64_xz():
    """Its check value, from the catalogue of CRC algorithms (reveng, CRC-64/XZ)."""
    assert digest(np.frombuffer(b"123456789", np.uint8)) == 0x995DC9BBDF1939FA


def test_every_flipped_bit_gives_another_digest():
    payload = np.random.default_rng(0).integers(0, 256, 40, dtype=np.uint8)
    found = {digest(payload)}
    for bit in range(8 * payload.size):
        other = payload.copy()
        other[bit // 8] ^= 1 << bit % 8
        found.add(digest(other))
    assert len(found) == 1 + 8 * payload.size


def test_without_digests_there_is_a_zero():
    assert digester(False)(np.ones(3, np.uint8)) == 0
