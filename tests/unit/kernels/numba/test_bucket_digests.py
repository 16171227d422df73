"""Sums with digests: the bits of the sums without, and the digests of the payloads."""

import numpy as np
import pytest
from fastcrc import crc64

from qafel_mpi.kernels import plan
from qafel_mpi.kernels.numba import crc
from qafel_mpi.kernels.numba.bucket_digests import BucketDigests
from qafel_mpi.kernels.numba.buckets import BucketKernels
from qafel_mpi.kernels.reference import LINF

pytestmark = pytest.mark.skipif(not crc.width(), reason="no carry-less products on this processor")
D = 3 * plan.ELEMENTS_PER_THREAD + 77  # shares for three threads


@pytest.mark.parametrize(("bits", "bucket", "threads"), [(4, 512, 1), (4, 300, 3), (3, 10_000, 2), (8, D, 3)])
def test_a_sum_with_digests_has_the_bits_of_one_without(bits, bucket, threads):
    cut = plan.plan(np.append(np.arange(0, D, bucket), D))
    kernels = BucketKernels(cut, bits=bits, s=2 ** (bits - 1) - 1, kind=LINF, threads=threads)
    assert len(kernels.shares) == threads
    generator = np.random.default_rng(7)
    payloads = [np.zeros(kernels.codes_at + cut.code_bytes(bits), np.uint8) for _ in range(5)]
    for i, payload in enumerate(payloads):
        assert kernels.encode(generator.standard_normal(D).astype(np.float32), payload, i) == -1
    wanted, found = np.zeros((2, D), np.float32)
    weights, digesting = [0.3, 1.0, 0.7, 0.2, 2.0], BucketDigests(kernels)

    kernels.accumulate(payloads, wanted, weights)
    assert digesting.accumulate(payloads, found, weights) == [crc64.xz(payload) for payload in payloads]
    np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))

    for assign in (False, True):
        kernels.decode(payloads[1], wanted, 0.4, assign=assign)
        assert digesting.decode(payloads[1], found, 0.4, assign=assign) == crc64.xz(payloads[1])
        np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))
