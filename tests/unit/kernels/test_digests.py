"""Digests that kernels have taken on the way, and those that nobody has."""

import numpy as np

from qafel_mpi.kernels.digests import Digests, xz


def payload(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, 40, dtype=np.uint8)


def put(found: Digests, payload: np.ndarray, digest: int) -> None:
    found.keep()
    found.payload, found.digest = payload, digest


def test_what_a_kernel_has_put_there_is_given_once_and_the_rest_is_taken_now():
    a, b, found = payload(0), payload(1), Digests()
    put(found, a, 17)
    assert found.of([b, a]) == [xz(b), 17]
    assert found.of([a]) == [xz(a)]


def test_what_nobody_asked_for_is_forgotten_at_the_next_question():
    a, b, found = payload(0), payload(1), Digests()
    put(found, a, 17)
    assert found.of([b]) == [xz(b)]
    assert found.of([a]) == [xz(a)]


def test_the_digest_of_the_last_decoding_counts():
    a, b, found = payload(0), payload(1), Digests()
    for pair in ((a, 17), (b, 18), (a, 19)):
        put(found, *pair)
    assert found.of([a, b]) == [19, 18]
    put(found, a, 20)
    assert found.of([a]) == [20]
    assert found.of([a, b]) == [xz(a), xz(b)]
