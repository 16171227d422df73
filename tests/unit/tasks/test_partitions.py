"""Partitions: every example goes to one client, every client has one, and the kinds differ as they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qafel_mpi.tasks import DataError
from qafel_mpi.tasks.partition_config import PartitionConfig
from qafel_mpi.tasks.partitions import Partition, partition

KINDS = {
    "iid": PartitionConfig(),
    "contiguous": PartitionConfig(kind="contiguous"),
    "dirichlet": PartitionConfig(kind="dirichlet", alpha=0.3),
    "dirichlet-clients": PartitionConfig(kind="dirichlet-clients", alpha=0.3),
    "powerlaw": PartitionConfig(kind="powerlaw", alpha=0.1),
    "shards": PartitionConfig(kind="shards", shards_per_client=2),
    "natural": PartitionConfig(kind="natural"),
}


def labels_of(n: int, classes: int = 10) -> np.ndarray:
    return np.random.default_rng(7).integers(0, classes, n)


def class_shares(labels: np.ndarray, dealt: Partition) -> np.ndarray:
    """(clients, classes): of each client's examples."""
    counts = np.stack([np.bincount(labels[dealt.indices(c)], minlength=10) for c in range(len(dealt))])
    return counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", KINDS)
@given(clients=st.integers(1, 60), spare=st.integers(0, 300), seed=st.integers(0, 2**63))
def test_every_example_goes_to_one_client_and_every_client_has_one(
    kind: str, clients: int, spare: int, seed: int
) -> None:
    n = 2 * clients + spare  # shards need two examples a client
    groups = np.arange(n) % (clients + 3)
    dealt = partition(KINDS[kind], labels_of(n), clients, seed, groups)
    assert len(dealt) == clients
    assert sorted(dealt.order.tolist()) == list(range(n))
    assert dealt.offsets[0] == 0
    assert dealt.offsets[-1] == n
    assert dealt.sizes().min() >= 1


@pytest.mark.parametrize("kind", ["iid", "dirichlet", "dirichlet-clients", "powerlaw", "shards"])
def test_the_seed_decides(kind: str) -> None:
    orders = [partition(KINDS[kind], labels_of(500), 20, seed).order for seed in (1, 1, 2)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_contiguous_runs_keep_the_order_and_the_first_are_longer_by_one() -> None:
    dealt = partition(KINDS["contiguous"], labels_of(8124), 100, 0)
    assert np.array_equal(dealt.order, np.arange(8124))
    assert dealt.sizes().tolist() == [82] * 24 + [81] * 76


@pytest.mark.parametrize("kind", ["dirichlet", "dirichlet-clients"])
def test_a_small_alpha_skews_the_labels_and_a_large_one_does_not(kind: str) -> None:
    labels = labels_of(20_000)
    largest = {}
    for alpha in (0.05, 1000.0):
        config = PartitionConfig.model_validate({"kind": kind, "alpha": alpha})
        dealt = partition(config, labels, 20, 0)
        largest[alpha] = float(class_shares(labels, dealt).max(axis=1).mean())
    assert largest[0.05] > 0.5
    assert largest[1000.0] < 0.15


def test_shares_class_by_class_are_those_of_before() -> None:
    dealt = partition(KINDS["dirichlet"], np.random.default_rng(7).integers(0, 10, 40), 4, 5)
    assert dealt.offsets.tolist() == [0, 5, 15, 27, 40]
    assert dealt.indices(0).tolist() == [0, 14, 19, 20, 27]
    assert dealt.indices(1).tolist() == [3, 5, 6, 7, 15, 23, 25, 28, 34, 38]


def test_clients_that_draw_their_classes_are_of_one_size() -> None:
    config = PartitionConfig(kind="dirichlet-clients", alpha=1e-4)
    dealt = partition(config, labels_of(5_003), 50, 0)
    assert set(dealt.sizes()) == {100, 101}
    shares = class_shares(labels_of(5_003), dealt)
    assert np.median(shares.max(axis=1)) == 1  # most have one class, until their class has run out


def test_power_law_skews_sizes_and_not_labels() -> None:
    labels = labels_of(50_000)
    sizes = partition(KINDS["powerlaw"], labels, 5000, 0).sizes()
    assert np.median(sizes) <= 2  # of density 0.1·x^(−0.9) most draws are next to nothing
    assert sizes.max() > 50
    few = partition(KINDS["powerlaw"], labels, 5, 0)
    biggest = int(np.argmax(few.sizes()))
    assert class_shares(labels, few)[biggest].max() < 0.15


def test_a_client_of_two_shards_sees_few_classes() -> None:
    labels = labels_of(10_000)
    dealt = partition(KINDS["shards"], labels, 100, 0)
    assert max(len(np.unique(labels[dealt.indices(c)])) for c in range(100)) <= 4


def test_natural_clients_are_the_users_or_several_of_them() -> None:
    groups = np.array([5, 5, 9, 9, 9, 70, 70])
    labels = np.zeros(7, dtype=int)
    one_each = partition(KINDS["natural"], labels, 3, 0, groups)
    assert [sorted(one_each.indices(c)) for c in range(3)] == [[0, 1], [2, 3, 4], [5, 6]]
    shared = partition(KINDS["natural"], labels, 2, 0, groups)
    assert [sorted(shared.indices(c)) for c in range(2)] == [[0, 1, 5, 6], [2, 3, 4]]


def test_more_clients_than_examples_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match=r"11 clients and 10 training examples.*set task.clients to 10"):
        partition(KINDS["iid"], labels_of(10), 11, 0)


def test_more_clients_than_users_is_refused_with_the_numbers() -> None:
    with pytest.raises(DataError, match=r"4 clients and 3 users"):
        partition(KINDS["natural"], labels_of(30), 4, 0, np.arange(30) % 3)


def test_natural_needs_users() -> None:
    with pytest.raises(DataError, match="no users"):
        partition(KINDS["natural"], labels_of(30), 4, 0)


def test_more_shards_than_examples_are_refused() -> None:
    with pytest.raises(DataError, match="10 clients × 2 shards are more than 15 examples"):
        partition(KINDS["shards"], labels_of(15), 10, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "dirichlet"}, "needs alpha"),
        ({"kind": "iid", "alpha": 0.5}, "alpha has no effect"),
        ({"kind": "iid", "shards_per_client": 2}, "shards_per_client has no effect"),
        ({"kind": "dirichlet", "alpha": 0}, "greater than 0"),
    ],
)
def test_settings_that_do_not_fit_the_kind_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartitionConfig.model_validate(settings)


def test_a_million_clients_cost_tens_of_bytes_each() -> None:
    dealt = partition(KINDS["iid"], np.zeros(1_000_000, dtype=np.int64), 1_000_000, 0)
    assert dealt.order.nbytes + dealt.offsets.nbytes <= 16 * 1_000_001
    assert len(dealt.indices(999_999)) == 1


@pytest.mark.parametrize("kind", ["contiguous", "dirichlet", "shards"])
def test_clients_numbered_by_label_are_the_same_clients_in_another_order(kind: str) -> None:
    labels = labels_of(500)
    drawn = partition(KINDS[kind], labels, 20, 1)
    config = KINDS[kind].model_copy(update={"by_label": True})
    ordered = partition(config, labels, 20, 1)
    means = [labels[ordered.indices(client)].mean() for client in range(20)]
    assert means == sorted(means)
    assert {tuple(drawn.indices(c)) for c in range(20)} == {tuple(ordered.indices(c)) for c in range(20)}


def test_clients_are_not_numbered_by_targets_that_are_no_classes() -> None:
    with pytest.raises(DataError, match=r"partition\.by_label: these examples have no classes"):
        partition(PartitionConfig(by_label=True), np.zeros(10), 2, 0)
