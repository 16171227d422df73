"""The random numbers of stochastic rounding: uniform, independent across elements, keys and neighbouring keys.

Seeds are fixed, so a test passes always or never; the error rate is the chance that a perfect generator would have
failed when the seed was chosen. A bound of 5 standard deviations is 6e-7 for each of some 300 statistics.
"""

import numpy as np
import pytest

from qafel_mpi.kernels import plan
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.kernels.numba import buckets as cpu
from qafel_mpi.kernels.numba.rows import derive_rows
from qafel_mpi.kernels.reference import LINF, hash32

DEVIATIONS = 5.0
N = 1 << 20  # hashes a key, two draws each
KEYS = [derive(0, Stream.UPLINK, owner, counter) for owner in range(4) for counter in range(4)]
# What a careless caller could use: small keys, and keys that differ in one bit of either word.
PLAIN_KEYS = [0, 1, 2, 1 << 31, 1 << 32, 2 << 32, 1 << 63, 2**64 - 1]


def hashes(key: int, count: int = N) -> np.ndarray:
    out = np.empty(count, dtype=np.uint32)
    cpu.hash_counters(key & 0xFFFFFFFF, key >> 32, out)
    return out


def draws(key: int, count: int = N) -> np.ndarray:
    """The 16-bit draws of 2·count slots in a row."""
    return hashes(key, count).view(np.uint16)


def deviations(counts: np.ndarray, expected: float) -> float:
    """How far chi-square lies from its mean, in standard deviations (it is normal for so many bins)."""
    freedom = counts.size - 1
    chi_square = float(((counts - expected) ** 2).sum() / expected)
    return (chi_square - freedom) / np.sqrt(2 * freedom)


def joint_deviations(a: np.ndarray, b: np.ndarray) -> float:
    """deviations of the pairs (a's upper byte, b's upper byte) from 65,536 equally likely ones."""
    pairs = (a >> 8).astype(np.int64) << 8 | (b >> 8)
    return deviations(np.bincount(pairs, minlength=65536), len(a) / 65536)


def test_the_kernels_draw_the_hashes_of_the_reference():
    for key in KEYS + PLAIN_KEYS:
        assert (hashes(key, 1000) == hash32(key, np.arange(1000, dtype=np.uint32))).all()


def test_no_hash_comes_twice_under_one_key():
    assert np.unique(hashes(KEYS[0])).size == N


@pytest.mark.parametrize("key", KEYS + PLAIN_KEYS)
def test_draws_are_uniform(key):
    """All 65,536 values of even and of odd slots, and each byte of them."""
    u = draws(key)
    for part in (u[::2], u[1::2]):
        assert abs(deviations(np.bincount(part, minlength=65536), N / 65536)) < DEVIATIONS
        for byte in (part >> 8, part & 255):
            assert abs(deviations(np.bincount(byte, minlength=256), N / 256)) < DEVIATIONS


@pytest.mark.parametrize("key", KEYS + PLAIN_KEYS)
def test_neighbouring_elements_are_independent(key):
    """Pairs at lags 1, 2, 3, 8, and the serial correlation at lags up to 64 and at a bucket's length."""
    u = draws(key)
    for lag in (1, 2, 3, 8):
        assert abs(joint_deviations(u[:-lag], u[lag:])) < DEVIATIONS
    centred = (u.astype(np.float64) - 32767.5) / np.sqrt((65536.0**2 - 1) / 12)
    for lag in (*range(1, 65, 3), 512, 1024):
        correlation = centred[:-lag] @ centred[lag:] / (len(u) - lag)
        assert abs(correlation) * np.sqrt(len(u)) < DEVIATIONS


def test_birthday_spacings():
    """Marsaglia: 4,096 birthdays in a year of 2^32 days have Poisson(4) equal spacings; 600 years, twice."""
    years, birthdays = 600, 4096
    for merged in (False, True):
        equal = 0
        for year in range(years):
            h = hashes(derive(1, Stream.UPLINK, year), 2 * birthdays).reshape(birthdays, 2)
            # The hashes themselves; or days made of the upper draws of two neighbours.
            days = (h[:, 0] & 0xFFFF0000) | (h[:, 1] >> 16) if merged else h[:, 0]
            spacings = np.sort(np.diff(np.sort(days)))
            equal += int((np.diff(spacings) == 0).sum())
        expected = years * birthdays**3 / 2**34
        assert abs(equal - expected) / np.sqrt(expected) < DEVIATIONS


def neighbours() -> list[tuple[int, int]]:
    """Keys of neighbouring messages (client, participation, stream, run), and raw keys one bit or one step apart."""
    base = (3, Stream.UPLINK, 17, 29)
    derived = []
    for place in range(4):
        changed = list(base)
        changed[place] = int(changed[place]) + 1
        derived.append((derive(*base), derive(*changed)))
    key = KEYS[5]
    raw = [(key, key ^ (1 << bit)) for bit in (0, 1, 15, 31, 32, 33, 47, 63)]
    # One Weyl sequence under two high words: what messages have in common whose sequences overlap.
    overlap = [(key, key & 0xFFFFFFFF | KEYS[i] & 0xFFFFFFFF << 32) for i in (6, 7, 8)]
    return [*derived, *raw, *overlap, (key, (key + 1) % 2**64), (0, 1), (1, 2)]


@pytest.mark.parametrize("pair", neighbours())
def test_neighbouring_keys_are_independent(pair):
    """The same elements under both keys: joint distribution, correlation, and bits that agree."""
    a, b = (draws(key) for key in pair)
    assert abs(joint_deviations(a, b)) < DEVIATIONS
    x, y = (u.astype(np.float64) - 32767.5 for u in (a, b))
    assert abs(x @ y) / np.sqrt((x @ x) * (y @ y)) * np.sqrt(len(a)) < DEVIATIONS
    differ = np.unpackbits((a ^ b).view(np.uint8)).sum()
    assert abs(float(differ) - 8 * len(a)) / np.sqrt(4 * len(a)) < DEVIATIONS


def test_an_element_is_uniform_and_independent_over_the_keys():
    """64 elements under 16,384 keys of one client: each one's values, and pairs of successive participations."""
    table = np.stack([draws(derive(5, Stream.UPLINK, 2, p), 32) for p in range(16384)])
    for element in range(table.shape[1]):
        u = table[:, element]
        assert abs(deviations(np.bincount(u >> 8, minlength=256), len(u) / 256)) < DEVIATIONS
        x = u.astype(np.float64) - 32767.5
        assert abs(x[:-1] @ x[1:]) / (x @ x) * np.sqrt(len(u)) < DEVIATIONS


def test_derived_keys_do_not_repeat():
    keys = {
        derive(seed, s, owner, counter)
        for seed in range(3)
        for s in Stream
        for owner in range(30)
        for counter in range(30)
    }
    assert len(keys) == 3 * len(Stream) * 900


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("fraction", [0.5, 1 / 3, 0.9, 0.01, 2.0**-15, 1 - 2.0**-12])
def test_encoding_is_unbiased_over_a_hundred_million_draws(bits, fraction):
    """The mean of 10^8 decoded values against the value, which lies `fraction` of a level above one.

    Allowed: 5 standard errors (5e-4 of them a level at most), and the 2^-17 level of 16-bit draws.
    """
    d, rounds = 1_000_000, 100
    s = max(1, 2 ** (bits - 1) - 1)
    value = 2 * fraction - 1 if bits == 1 else (s // 2 + fraction) / s
    x = np.full(d, value, dtype=np.float32)
    x[::512] = 1.0  # the scale of each bucket
    kernels = cpu.BucketKernels(plan.plan(np.append(np.arange(0, d, 512), d)), bits=bits, s=s, kind=LINF)
    payload = np.zeros(4 * kernels.plan.buckets + kernels.plan.code_bytes(bits), dtype=np.uint8)
    total = np.zeros(d)
    for counter in range(rounds):
        kernels.encode(x, payload, derive(7, Stream.UPLINK, bits, counter))
        kernels.decode(payload, total, 1.0, assign=False)
    here = np.ones(d, dtype=bool)
    here[::512] = False
    draws_made = rounds * int(here.sum())
    level = 2.0 if bits == 1 else 1.0 / s  # distance between neighbouring values
    bias = (total[here].sum() / draws_made - float(x[1])) / level
    error = np.sqrt(fraction * (1 - fraction) / draws_made)
    assert abs(bias) < DEVIATIONS * error + 2.0**-17


def test_keys_derived_in_one_call_are_those_derived_one_by_one():
    pairs = np.array([[0, 0], [1, 0], [0, 1], [2**32 - 1, 7], [2**40, 2**62], [5, 10**6]])
    for seed, stream in ((0, Stream.UPLINK), (2**63 + 1, Stream.SHUFFLE)):
        expected = [derive(seed, stream, owner, counter) for owner, counter in pairs.tolist()]
        assert derive_rows(seed, stream, pairs).tolist() == expected
