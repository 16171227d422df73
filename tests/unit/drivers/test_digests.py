"""Digests of payloads: known values, and what they tell apart."""

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import Layout, bucketed
from qafel_mpi.codecs.qsgd import QSGD
from qafel_mpi.drivers.digests import digest, digester
from qafel_mpi.kernels.digests import Digests
from qafel_mpi.kernels.numba import crc


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


@pytest.mark.parametrize("bits", [2, 4])
def test_a_codec_gives_digests_of_what_it_has_decoded(monkeypatch, bits):
    """One that digests on the way; the same payload's memory gives its new digest after new bytes."""
    monkeypatch.setattr(bucketed, "DIGESTED_BYTES", 1)
    codec = QSGD(Layout(("x",), ((70_001,),)), bits=bits)
    digests_of = digester(True, codec)
    payloads = [np.zeros(codec.payload_bytes(), np.uint8) for _ in range(3)]
    acc = torch.zeros(70_001)
    for turn in range(2):
        for i, payload in enumerate(payloads):
            x = torch.randn(70_001, generator=torch.Generator().manual_seed(10 * turn + i))
            codec.encode(x, payload, i)
        codec.start_sum(payloads[0], acc, 0.5, 0)
        codec.accumulate_all(payloads[1:], acc, [1.0, 1.0], [1, 2])
        assert digests_of(payloads) == [digest(payload) for payload in payloads]
    assert digests_of(payloads[:1]) == [digest(payloads[0])]


def test_without_digests_there_are_zeros():
    codec = QSGD(Layout(("x",), ((3,),)))
    assert digester(False, codec)([np.ones(3, np.uint8)] * 2) == [0, 0]


@pytest.mark.parametrize(
    ("bits", "elements", "taken"),
    [(4, 4_810, False), (4, 29_282, True), (2, 4_810, False), (2, 29_282, True)],
)
def test_digests_are_taken_on_the_way_where_that_saves_time(bits, elements, taken):
    codec = QSGD(Layout(("x",), ((elements,),)), bits=bits)
    assert codec.take_digests(Digests()) == (taken and crc.width() > 0)
