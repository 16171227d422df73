"""Updates that the server does not use as they came: worked out on paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.bounds import CLIPPED, REJECTED, WRAPPED, Finding, Rejected, factor
from qafel_mpi.algorithms.client import Client, Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Update
from qafel_mpi.codecs import CodecConfig, NonFiniteError, build
from tests.unit.algorithms.made import CODECS, LAYOUT, D, damaged, make, start, step, upload


def vector(*values: float) -> torch.Tensor:
    """(d,), zeros behind the values."""
    x = torch.zeros(D)
    x[: len(values)] = torch.tensor(values)
    return x


@pytest.mark.parametrize(("norm", "scaled_by"), [(0.0, 1.0), (2.0, 1.0), (2.5, 0.8), (8.0, 0.25)])
def test_a_longer_update_is_scaled_down_to_the_bound(norm, scaled_by):
    c, why = factor(ServerConfig(clip_norm=2.0, reject_norm=10), norm)
    assert c == scaled_by
    assert bool(why) == (scaled_by < 1)


@pytest.mark.parametrize("norm", [10.1, float("inf"), float("nan")])
def test_beyond_the_other_bound_it_is_refused_with_both_numbers(norm):
    with pytest.raises(Rejected, match=rf"norm {norm:.4g}, above server.reject_norm = 10"):
        factor(ServerConfig(clip_norm=2.0, reject_norm=10), norm)


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="clip_norm = 3 has no effect with reject_norm = 3"):
        ServerConfig(clip_norm=3.0, reject_norm=3.0)


def test_a_clipped_update_counts_as_one_of_k_and_moves_the_model_by_its_bound():
    """(3, 4) has norm 5: clipped to 1 it is (0.6, 0.8). The mean with (1, 0) is (0.8, 0.4)."""
    server, up, down = make(buffer_size=2, clip_norm=1.0)
    assert upload(server, up, vector(1, 0)) == 1.0
    assert server.findings == []
    assert upload(server, up, vector(3, 4), client=5) == 1.0
    assert server.findings == [Finding(0, CLIPPED, "norm 5, scaled down to server.clip_norm = 1")]
    step(server, down)
    assert torch.allclose(server.x - start(), vector(0.8, 0.4), atol=1e-6)


def test_a_rejected_update_leaves_its_place_to_another():
    server, up, down = make(buffer_size=2, reject_norm=4.9)
    upload(server, up, vector(1, 0))
    assert upload(server, up, vector(3, 4)) == 0.0
    assert [(found.at, found.kind) for found in server.findings] == [(0, REJECTED)]
    assert (server.filled, server.uploads) == (1, 2)
    upload(server, up, vector(0, 2))
    assert (server.findings, server.full) == ([], True)
    step(server, down)
    assert torch.allclose(server.x - start(), vector(0.5, 1.0), atol=1e-6)


def test_of_a_client_that_sends_its_model_the_difference_is_measured_and_clipped():
    """FedAsync: u = y_P − x^t = (3, 4), of norm 5; with c = 1/5 x moves by α (0.6, 0.8)."""
    server, up, down = make(update="model", learning_rate=0.5, clip_norm=1.0)
    client = Client(
        Replica(start(), build(CODECS["identity"], LAYOUT), assigns=True), up, seed=0, sends_model=True
    )
    client.begin(start())
    payload = np.zeros(up.payload_bytes(), np.uint8)
    size, key = client.encode(vector(3, 4), payload, client=0, participation=0)
    server.receive(Update(0, 0, payload[:size], key))
    assert server.findings[0].kind == CLIPPED
    step(server, down)
    assert torch.allclose(server.x - start(), vector(0.3, 0.4), atol=1e-5)


def test_weights_of_staleness_and_examples_come_on_top_of_the_bound():
    """s(1) = 1/2, w = 2 and 1: (2 · ½ · (0.6, 0.8) + ½ · (1, 0)) / 3."""
    staleness = StalenessConfig(weight="polynomial", exponent=1.0)
    server, up, down = make(buffer_size=2, staleness=staleness, weighting="examples", clip_norm=1.0)
    for _ in range(2):
        upload(server, up, torch.zeros(D))
    step(server, down)
    before = server.x.clone()
    upload(server, up, vector(3, 4), version=0, examples=2)
    upload(server, up, vector(1, 0), version=0)
    step(server, down)
    assert torch.allclose(server.x - before, vector(1.1 / 3, 0.8 / 3), atol=1e-6)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("bounds", [{}, {"clip_norm": 1e6}, {"reject_norm": 1e6}])
@pytest.mark.parametrize("beside", [0, 2])
def test_nothing_of_a_damaged_upload_reaches_the_buffer_and_the_others_do(name, bounds, beside):
    """A NaN for a scale or a value, a byte that lacks, no bytes at all, and with zstd a good frame around a NaN."""
    server, up, _ = make(CODECS[name], buffer_size=5, **bounds)
    good = np.zeros(up.payload_bytes(), np.uint8)
    good = good[: up.encode(start(2), good, 7)]
    for bad in damaged(up):
        alone, _, _ = make(CODECS[name], buffer_size=5)
        whole = [Update(i, 0, good, 7) for i in range(beside)]
        for update in whole:
            alone.receive(update)
        assert server.receive_all([Update(9, 0, bad, 7), *whole]) == [0.0, *[1.0] * beside]
        assert [(found.at, found.kind) for found in server.findings] == [(0, REJECTED)]
        assert torch.equal(server.buffer, alone.buffer)
        assert server.filled == beside
        server._clear()


def test_a_bound_that_nothing_exceeds_changes_no_bit():
    digests = []
    for bounds in ({}, {"clip_norm": 1e6}, {"reject_norm": 1e6}):
        server, up, down = make(CODECS["qsgd"], CODECS["qsgd"], buffer_size=3, **bounds)
        for t in range(4):
            updates = []
            for i in range(3):
                payload = np.zeros(up.payload_bytes(), np.uint8)
                up.encode(start(3 * t + i), payload, i)
                updates.append(Update(i, t, payload, i))
            server.receive_all(updates)
            assert server.findings == []
            step(server, down)
        digests.append(server.x.numpy().tobytes())
    assert len(set(digests)) == 1


def test_a_sum_too_large_for_a_float_ends_the_step_before_the_model_moves():
    server, up, _ = make(buffer_size=2, learning_rate=0.1)
    for _ in range(2):
        upload(server, up, vector(3e38))
    assert server.findings == []
    with pytest.raises(NonFiniteError, match=r"'a\.weight', element 0 is inf"):
        server.step(np.zeros(D * 4, np.uint8))
    assert torch.equal(server.x, start())


LATTICE = CodecConfig(codec="lattice", bits=4, spacing=1.0, bucket=512)  # of ±7½ near 0


def test_buckets_of_an_update_that_wrapped_around_are_found_and_the_others_count():
    """D = 697: two buckets. The first has an element of 100, and is lost; of two updates it is the second's."""
    server, up, down = make(uplink=LATTICE, buffer_size=2)
    far = torch.ones(D)
    far[3] = 100.0
    updates = []
    for client, u in enumerate((torch.ones(D), far)):
        payload = np.zeros(up.payload_bytes(), np.uint8)
        updates.append(Update(client, 0, payload[: up.encode(u, payload, 1)], 1))
    assert server.receive_all(updates) == [1.0, 1.0]
    assert [(found.at, found.kind) for found in server.findings] == [(1, WRAPPED)]
    assert "buckets: 1; raise uplink.bits or uplink.spacing" in server.findings[0].why
    step(server, down)
    assert torch.allclose(server.x - start(), torch.cat((torch.full((512,), 0.5), torch.ones(D - 512))))


@pytest.mark.parametrize("assigns", [False, True])
def test_a_broadcast_that_wrapped_around_is_counted_at_the_step(assigns):
    server, up, down = make(downlink=LATTICE, assigns=assigns)
    for length, parts in ((1.0, 0), (1000.0, 2)):
        upload(server, up, torch.full((D,), length))
        made, _ = step(server, down)
        assert made.wrapped == parts
