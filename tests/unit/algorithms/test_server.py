"""The algorithms' invariants (ALGORITHM.md), on the pure state machines: no MPI, no clock."""

import copy

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms import server as algorithms_server
from qafel_mpi.algorithms.client import Client, Replica
from qafel_mpi.algorithms.config import StalenessConfig
from qafel_mpi.algorithms.server import Update
from qafel_mpi.codecs import CodecConfig, build
from qafel_mpi.codecs import base as codecs_base
from qafel_mpi.codecs.entropy import Coded
from tests.unit.algorithms.made import CODECS, LAYOUT, POLYNOMIAL, D, make, start, step, upload


def test_without_quantization_the_hidden_state_is_the_model_and_the_run_is_fedbuff():
    """An identity downlink assigns: then x̂ = x after every step, and x follows FedBuff bit for bit."""
    server, up, down = make(buffer_size=3, learning_rate=0.7, momentum=0.3)
    x, m = start(), torch.zeros(D)
    for t in range(20):
        buffer = torch.zeros(D)
        for k in range(3):
            delta = start(100 + 3 * t + k) * 0.1
            upload(server, up, delta)
            buffer += delta
        made, _ = step(server, down)
        m = m * 0.3 + buffer * (1 / 3)
        x = torch.add(x, m, alpha=0.7)  # as torch rounds it: one multiply-add
        assert torch.equal(server.x, x)
        assert torch.equal(server.x_hat, server.x)
        assert made.gap == 0


def test_an_identity_difference_stays_within_one_rounding_of_the_model():
    server, up, down = make(assigns=False)
    for t in range(20):
        upload(server, up, start(t) * 0.1)
        step(server, down)
        spacing = torch.from_numpy(np.spacing(np.maximum(server.x.abs().numpy(), server.x_hat.abs().numpy())))
        assert ((server.x - server.x_hat).abs() <= spacing).all()


def test_the_buffer_of_k_uploads_makes_one_step_and_is_emptied():
    server, up, down = make(buffer_size=3)
    for k in range(3):
        assert not server.full
        upload(server, up, torch.ones(D) * (k + 1))
    assert server.full
    step(server, down)
    assert torch.allclose(server.x, start() + 2)
    assert (server.filled, server.version, server.uploads) == (0, 1, 3)
    assert not server.buffer.any()


@pytest.mark.parametrize(("reduction", "factor"), [("mean", 1 / 2), ("sum", 1), ("clients", 1 / 8)])
def test_reductions_are_those_of_the_document(reduction, factor):
    server, up, down = make(buffer_size=2, reduction=reduction, learning_rate=0.5)
    upload(server, up, torch.ones(D))
    upload(server, up, torch.ones(D) * 3)
    step(server, down)
    assert torch.allclose(server.x - start(), torch.full((D,), 0.5 * 4 * factor), atol=1e-6)


def test_staleness_counts_from_the_version_a_client_started_from_and_weighs_its_update():
    staleness = StalenessConfig(weight="polynomial", exponent=0.5)
    server, up, down = make(staleness=staleness)
    for _ in range(3):
        upload(server, up, torch.zeros(D))
        step(server, down)
    before = server.x.clone()
    assert upload(server, up, torch.ones(D), version=0) == 0.5  # τ = 3
    step(server, down)
    assert torch.allclose(server.x - before, torch.full((D,), 0.5), atol=1e-6)


def test_fedasync_mixes_the_clients_model_into_the_current_one():
    """x ← (1 − α_τ) x + α_τ y_P, α_τ = α s(τ) (Xie et al. 2019)."""
    staleness = StalenessConfig(weight="polynomial", exponent=1.0)
    server, up, down = make(staleness=staleness, update="model", learning_rate=0.6)
    client = Client(
        Replica(start(), build(CODECS["identity"], LAYOUT), assigns=True), up, seed=0, sends_model=True
    )
    x = start()
    for t in range(4):
        assert client.begin(start()) == 0  # it never hears of a step: ever staler
        payload = np.zeros(up.payload_bytes(), np.uint8)
        delta = start(50 + t) * 0.1
        y_p = start() + delta
        size, key = client.encode(delta.clone(), payload, client=0, participation=t)
        server.receive(Update(0, 0, payload[:size], key))
        step(server, down)
        alpha = 0.6 / (1 + t)
        x = (1 - alpha) * x + alpha * y_p
        assert torch.allclose(server.x, x, atol=1e-5)


def test_an_update_of_weight_0_takes_no_place_in_the_buffer():
    """Ringmaster, R = 2: updates 1, 1, 5 (τ = 2: dropped), 1 with K = 1 make x + 3, in three steps."""
    server, up, down = make(staleness=StalenessConfig(weight="cutoff", cutoff=2))
    for version, value, weight in ((0, 1.0, 1.0), (0, 1.0, 1.0), (0, 5.0, 0.0), (2, 1.0, 1.0)):
        assert upload(server, up, torch.full((D,), value), version=version) == weight
        assert server.full == (weight == 1)
        if server.full:
            step(server, down)
    assert (server.version, server.uploads) == (3, 4)
    assert torch.allclose(server.x, start() + 3, atol=1e-6)


def test_synchronous_rounds_average_by_examples_and_use_nothing_of_earlier_rounds():
    server, up, down = make(buffer_size=2, synchronous=True, weighting="examples")
    upload(server, up, torch.ones(D), examples=1)
    upload(server, up, torch.ones(D) * 5, examples=3)
    step(server, down)
    assert torch.allclose(server.x - start(), torch.full((D,), 4.0), atol=1e-5)
    assert upload(server, up, torch.ones(D), version=0) == 0.0
    assert server.filled == 0


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("options", [{}, {"synchronous": True}, {"weighting": "examples"}])
def test_uploads_received_in_one_call_count_as_those_received_one_by_one(name, options):
    several, up, down = make(CODECS[name], buffer_size=6, staleness=POLYNOMIAL, **options)
    one_by_one, _, _ = make(CODECS[name], buffer_size=6, staleness=POLYNOMIAL, **options)
    for _ in range(2):
        updates = []
        for i in range(4):
            payload = np.zeros(up.payload_bytes(), np.uint8)
            size = up.encode(start(i), payload, i)
            updates.append(Update(i, max(0, several.version - i % 2), payload[:size], i, i + 1))
        weights = several.receive_all(updates)
        assert weights == [one_by_one.receive(update) for update in updates]
        assert (several.filled, several.uploads) == (one_by_one.filled, one_by_one.uploads)
        for server in (several, one_by_one):
            step(server, down)
    assert torch.equal(several.x, one_by_one.x)


def test_an_upload_from_the_future_is_refused_with_all_that_came_with_it():
    server, up, _ = make(buffer_size=5)
    payload = np.zeros(up.payload_bytes(), np.uint8)
    with pytest.raises(ValueError, match="client 3 starts from version 1, the server is at 0"):
        server.receive_all([Update(2, 0, payload, 0), Update(3, 1, payload, 0)])
    assert (server.filled, server.uploads) == (0, 0)


def test_a_compressed_payload_is_decompressed_once_on_every_path(monkeypatch):
    server, up, down = make(CODECS["zstd"], CODECS["zstd"], buffer_size=4)
    replica = Replica(start(), down, assigns=False)
    counts = {up: 0, down: 0}
    decompress = Coded._decompress

    def counted(codec, *arguments):
        counts[codec] += 1
        return decompress(codec, *arguments)

    monkeypatch.setattr(Coded, "_decompress", counted)
    payloads = [np.zeros(up.payload_bytes(), np.uint8) for _ in range(4)]
    updates = [Update(i, 0, p[: up.encode(start(i), p, i)], i) for i, p in enumerate(payloads)]
    server.receive(updates[0])
    server.receive_all(updates[1:])
    made, q = step(server, down)
    replica.apply(q, made.key, 0)
    replica.download(q, made.key, 1)
    assert list(counts.values()) == [4, 2]


def test_norms_of_a_step_are_those_of_its_vectors():
    # Differences are rounded to float32, their squares summed in float64.
    server, up, down = make(downlink=CODECS["qsgd"])
    before, hidden = server.x.double(), server.x_hat.double()
    upload(server, up, start(1))
    made, _ = step(server, down)
    x = server.x.double()
    assert made.step_norm == pytest.approx(float((x - before).norm()), rel=2.0**-24)
    assert made.difference_norm == pytest.approx(float((x - hidden).norm()), rel=2.0**-24)
    assert made.gap == pytest.approx(float((x - server.x_hat.double()).norm()), rel=2.0**-24)


def test_the_gap_vanishes_with_the_steps_with_the_hidden_state_and_not_without():
    """‖x − x̂‖: QAFeL's error is of the size of the last step, naive's of the size of the model."""
    gaps = {}
    for mode, assigns in (("hidden", False), ("direct", True)):
        server, up, down = make(downlink=CODECS["qsgd"], assigns=assigns)
        for t in range(60):
            upload(server, up, start(t) * 0.5**t)
            made, _ = step(server, down)
        gaps[mode] = made.gap
    assert gaps["hidden"] < 1e-6 * gaps["direct"]
    assert gaps["direct"] > 0.1


def test_the_norms_of_a_step_are_what_they_say():
    server, up, down = make(CODECS["identity"], CODECS["qsgd"], assigns=False)
    before, hidden_before = server.x.clone(), server.x_hat.clone()
    upload(server, up, start(3))
    made, _ = step(server, down)
    assert made.step_norm == pytest.approx(float((server.x - before).norm()), rel=1e-5)
    assert made.difference_norm == pytest.approx(float((server.x - hidden_before).norm()), rel=1e-5)
    assert made.gap == pytest.approx(float((server.x - server.x_hat).norm()), rel=1e-5)


@pytest.mark.parametrize("published", [True, False])
def test_a_step_that_is_not_measured_moves_alike_and_takes_no_norms_of_its_own(monkeypatch, published):
    def stepped(measure):
        server, up, down = make(downlink=CodecConfig(codec="affine"))
        upload(server, up, start(3))
        out = np.zeros(down.payload_bytes(), np.uint8)
        return server.step(out if published else None, measure=measure), server.x, server.x_hat

    measured, x, x_hat = stepped(True)
    assert measured.difference_norm > 0
    for module in (algorithms_server, codecs_base):
        for name in ("norm", "distance"):
            monkeypatch.setattr(module, name, None)
    made, same_x, same_x_hat = stepped(False)
    assert np.isnan(made[3:6]).all()
    assert made[:3] == measured[:3]
    assert torch.equal(same_x, x)
    assert torch.equal(same_x_hat, x_hat)


def test_an_update_from_the_future_is_refused():
    server, up, _ = make()
    with pytest.raises(ValueError, match="client 4 starts from version 1, the server is at 0"):
        upload(server, up, torch.ones(D), client=4, version=1)
    assert server.uploads == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qsgd", {"momentum": 0.3}),
        ("qsgd", {"optimizer": "adam"}),
        ("identity", {"weighting": "examples", "synchronous": True}),
        ("identity", {"update": "model", "learning_rate": 0.6}),
    ],
)
def test_a_restored_server_goes_on_bit_for_bit(name, options):
    """Stopped with two of five uploads in its buffer, after steps that have filled the optimizer's vectors."""

    def make_one():
        return make(CODECS[name], CODECS[name], staleness=POLYNOMIAL, buffer_size=5, **options)

    def go_on(server, up, down, begin, end):
        sent = []
        for n in range(begin, end):
            upload(server, up, start(n) * 0.1, client=n % 8, version=max(0, server.version), examples=n + 1)
            if server.full:
                made, payload = step(server, down)
                sent.append((made, payload.tobytes()))
        return sent

    server, up, down = make_one()
    go_on(server, up, down, 0, 17)
    kept = copy.deepcopy(server.state())
    expected = go_on(server, up, down, 17, 40)
    other, up, down = make_one()
    other.restore(kept)
    assert go_on(other, up, down, 17, 40) == expected
    assert torch.equal(other.x, server.x)
    assert torch.equal(other.x_hat, server.x_hat)
    assert other.uploads == server.uploads == 40


def test_the_state_of_a_server_of_another_model_is_refused():
    server, _, _ = make()
    state = server.state() | {"x": np.zeros(3, np.float32)}
    with pytest.raises(ValueError, match=r"float32\(3,\)"):
        server.restore(state)
