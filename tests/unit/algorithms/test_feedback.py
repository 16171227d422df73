"""Error feedback: what an upload lost comes with the next one."""

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.client import Client, Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.feedback import ErrorFeedback
from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.codecs.base import NonFiniteError
from tests.unit.algorithms.made import CODECS, LAYOUT, D, start

TWO = Layout(("w",), ((2,),))


def client_of(uplink, layout=LAYOUT, **options) -> Client:
    replica = Replica(torch.zeros(layout.elements), build(CODECS["identity"], layout), assigns=True)
    feedback = ErrorFeedback(layout, torch.float32, seed=0, **options)
    return Client(replica, build(uplink, layout), seed=0, feedback=feedback)


def upload(
    client: Client, delta: torch.Tensor, *, of: int = 0, participation: int = 0
) -> tuple[np.ndarray, int]:
    out = np.zeros(client.uplink.payload_bytes(), np.uint8)
    size, key = client.encode(delta.clone(), out, client=of, participation=participation)
    return out[:size], key


@pytest.mark.parametrize(
    ("decay", "models"), [(1.0, ([3, 0], [3, 2], [5, 2])), (0.5, ([3, 0], [3, 1.5], [4.5, 1.5]))]
)
def test_three_steps_by_hand(decay, models):
    """Top-1 of two numbers, K = 1, η_g = 1, x^0 = (0, 0); client 0 trains to (3, 1), (1, 1), (1, 1).

    β = 1: v = (3, 1), u = (3, 0), e = (0, 1); x = (3, 0).
           v = (0, 1) + (1, 1) = (1, 2), u = (0, 2), e = (1, 0); x = (3, 2).
           v = (1, 0) + (1, 1) = (2, 1), u = (2, 0), e = (0, 1); x = (5, 2).
    β = ½: v = (3, 1), u = (3, 0), e = (0, 1); x = (3, 0).
           v = (0, ½) + (1, 1) = (1, 1½), u = (0, 1½), e = (1, 0); x = (3, 1½).
           v = (½, 0) + (1, 1) = (1½, 1), u = (1½, 0): x = (4½, 1½).
    """
    top1 = CodecConfig(codec="topk", fraction=0.5)
    client = client_of(top1, TWO, decay=decay)
    full = build(CODECS["identity"], TWO)
    server = Server(
        torch.zeros(2),
        build(top1, TWO),
        Replica(torch.zeros(2), full, assigns=True),
        ServerConfig(buffer_size=1),
        StalenessConfig(weight="constant"),
        seed=0,
        clients=1,
    )
    for n, (delta, x) in enumerate(zip(([3, 1], [1, 1], [1, 1]), models, strict=True)):
        payload, key = upload(client, torch.tensor(delta, dtype=torch.float32), participation=n)
        server.receive(Update(0, server.version, payload, key))
        server.step(np.zeros(full.payload_bytes(), np.uint8))
        assert server.x.tolist() == x


def test_qafel_ef_three_steps_by_hand():
    """The preset, with top-1 of two numbers up and down: K = 2, η_g = 1, x^0 = x̂^0 = (0, 0), s = 1.

    Client 0 trains x̂ on by (3, 1), (1, 1), (1, 0), client 1 by (1, 2), (2, 1), (0, 1).
    1: v₀ = (3, 1), u₀ = (3, 0), e₀ = (0, 1); v₁ = (1, 2), u₁ = (0, 2), e₁ = (1, 0); x = ½(3, 2) = (1½, 1).
       x − x̂ = (1½, 1), q = (1½, 0), x̂ = (1½, 0).
    2: v₀ = (1, 2), u₀ = (0, 2), e₀ = (1, 0); v₁ = (3, 1), u₁ = (3, 0), e₁ = (0, 1); x = (1½, 1) + ½(3, 2) = (3, 2).
       x − x̂ = (1½, 2), q = (0, 2), x̂ = (1½, 2).
    3: v₀ = (2, 0), u₀ = (2, 0), e₀ = 0; v₁ = (0, 2), u₁ = (0, 2), e₁ = 0; x = (3, 2) + ½(2, 2) = (4, 3).
       x − x̂ = (2½, 1), q = (2½, 0), x̂ = (4, 2).
    """
    preset, top1 = PRESETS["qafel-ef"], build(CodecConfig(codec="topk", fraction=0.5), TWO)
    assigns = preset["downlink"]["mode"] != "hidden"
    replicas = [Replica(torch.zeros(2), top1, assigns=assigns) for _ in range(2)]
    config = ServerConfig(buffer_size=2, **preset.get("server", {}))
    constant = StalenessConfig(weight="constant")
    server = Server(torch.zeros(2), top1, replicas[0], config, constant, seed=0, clients=2)
    assert preset["client"] == {"error_feedback": True}
    client = Client(replicas[1], top1, seed=0, feedback=ErrorFeedback(TWO, torch.float32, seed=0))
    trained = [[(3, 1), (1, 2)], [(1, 1), (2, 1)], [(1, 0), (0, 1)]]
    kept = [[[0, 1], [1, 0]], [[1, 0], [0, 1]], [[0, 0], [0, 0]]]
    models = [[[1.5, 1], [1.5, 0]], [[3, 2], [1.5, 2]], [[4, 3], [4, 2]]]
    out = np.zeros(top1.payload_bytes(), np.uint8)
    for n, deltas in enumerate(trained):
        for of, delta in enumerate(deltas):
            payload, key = upload(client, torch.tensor(delta, dtype=torch.float32), of=of, participation=n)
            server.receive(Update(of, client.replica.version, payload, key))
        assert client.feedback is not None
        assert [client.feedback.residual(of, server.x).tolist() for of in range(2)] == kept[n]
        made = server.step(out)
        client.replica.apply(out[: made.payload_bytes], made.key, n)
        assert [server.x.tolist(), client.replica.x_hat.tolist()] == models[n]
        assert server.x_hat.tolist() == client.replica.x_hat.tolist()


@pytest.mark.parametrize("name", ["qsgd 1 bit", "affine", "topk", "sign", "fixed, clipped"])
def test_what_was_sent_and_what_is_kept_add_up_to_what_was_trained(name):
    fixed = CodecConfig(codec="fixed", bits=4, spacing=0.1)  # of normal numbers half are beyond 0.7
    client, sent, trained = client_of(CODECS.get(name, fixed)), torch.zeros(D), torch.zeros(D)
    for n in range(5):
        delta = start(n)
        trained += delta
        payload, key = upload(client, delta, participation=n)
        client.uplink.accumulate(payload, sent, 1.0, key)
    assert client.feedback is not None
    kept = client.feedback.residual(0, sent)
    assert torch.allclose(sent + kept, trained, atol=1e-4)


def test_each_client_has_a_residual_of_its_own():
    client = client_of(CODECS["topk"])
    assert client.feedback is not None
    first, _ = upload(client, start(1), of=3)
    again, _ = upload(client, start(1), of=4)
    assert first.tobytes() == again.tobytes()
    assert client.feedback.residual(3, start()).any()
    assert not client.feedback.residual(5, start()).any()


def test_eight_bits_take_a_quarter_of_the_memory_and_are_near():
    exact, coarse = client_of(CODECS["topk"]), client_of(CODECS["topk"], bits=8)
    assert exact.feedback is not None
    assert coarse.feedback is not None
    for client in (exact, coarse):
        upload(client, start(1))
    wide, narrow = exact.feedback.residual(0, start()), coarse.feedback.residual(0, start())
    assert float((wide - narrow).norm()) < 0.02 * float(wide.norm())
    sizes = [len(client.feedback.state()[0][0]) for client in (exact, coarse) if client.feedback]
    assert sizes == [4 * D, D + 4 * 2]


@pytest.mark.parametrize("bits", [8, 32])
def test_a_restored_state_goes_on_with_the_same_bytes(bits):
    one, other = client_of(CODECS["topk"], bits=bits), client_of(CODECS["topk"], bits=bits)
    assert one.feedback is not None
    assert other.feedback is not None
    for n in range(2):
        upload(one, start(n), of=n, participation=n)
    other.feedback.restore(one.feedback.state(), torch.float32)
    for n in range(2):
        same = [upload(client, start(9), of=n, participation=5)[0].tobytes() for client in (one, other)]
        assert same[0] == same[1]


@pytest.mark.parametrize("bits", [8, 32])
def test_a_residual_of_another_model_is_refused(bits):
    client = client_of(CODECS["topk"], bits=bits)
    assert client.feedback is not None
    with pytest.raises(ValueError, match="client 3's residual has 4 bytes"):
        client.feedback.restore({3: (b"1234", 0)}, torch.float32)


def test_several_in_one_call_are_those_of_one_at_a_time():
    one, several = client_of(CODECS["sign"]), client_of(CODECS["sign"])
    for n in range(2):
        deltas = torch.stack([start(10 * n + i) for i in range(3)])
        alone = [upload(one, delta, of=i, participation=n)[0].tobytes() for i, delta in enumerate(deltas)]
        outs = np.zeros((3, several.uplink.payload_bytes()), np.uint8)
        several.encode_all(deltas, outs, np.array([(i, n) for i in range(3)], np.int64))
        assert [out.tobytes() for out in outs] == alone


def test_a_training_that_diverged_is_an_error_as_without_feedback():
    client = client_of(CODECS["topk"])
    with pytest.raises(NonFiniteError):
        upload(client, torch.full((D,), float("nan")))
