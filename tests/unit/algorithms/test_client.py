"""Clients and their replica of the hidden state: the invariants of Algorithms 2 and 3."""

import numpy as np
import pytest
import torch

from qafel_mpi.algorithms.client import Client, Replica
from qafel_mpi.codecs import PayloadError, build
from tests.unit.algorithms.made import CODECS, LAYOUT, D, damaged, make, start, step, upload


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("assigns", [False, True])
def test_clients_hold_the_servers_hidden_state_bit_for_bit(name, assigns):
    server, up, down = make(CODECS["qsgd"], CODECS[name], assigns=assigns, buffer_size=2, momentum=0.3)
    replica = Replica(start(), build(CODECS[name], LAYOUT), assigns=assigns)
    for t in range(6):
        for k in range(2):
            upload(server, up, start(10 * t + k) * 0.1, key=10 * t + k)
        made, q = step(server, down)
        replica.apply(q.copy(), made.key, made.version - 1)
        assert torch.equal(replica.x_hat, server.x_hat), f"version {t + 1}"
        assert replica.version == server.version == t + 1


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("way", ["a difference", "the model", "a download", "another rank's model"])
def test_nothing_of_a_damaged_payload_reaches_the_hidden_state(name, way):
    """Whoever hands it in: no check before `apply`, `download` and `catch_up` is needed."""
    codec = build(CODECS[name], LAYOUT)
    replica = Replica(start(), codec, assigns=way == "the model")
    take = {
        "a difference": lambda payload: replica.apply(payload, 7, 0),
        "the model": lambda payload: replica.apply(payload, 7, 3),
        "a download": lambda payload: replica.download(payload, 7, 3),
        "another rank's model": lambda payload: replica.catch_up(payload, codec, 3),
    }[way]
    for payload in damaged(codec):
        with pytest.raises(PayloadError):
            take(payload)
        assert torch.equal(replica.x_hat, start())
        assert replica.version == 0


@pytest.mark.parametrize("sends_model", [False, True])
@pytest.mark.parametrize("diverged", [None, 1])
def test_uploads_encoded_in_one_call_are_those_encoded_one_by_one(sends_model, diverged):
    """Of several trainings one may have diverged: the others' uploads are not touched by it."""
    up = build(CODECS["qsgd"], LAYOUT)
    clients = [
        Client(Replica(start(), up, assigns=False), up, seed=3, sends_model=sends_model) for _ in range(2)
    ]
    deltas = torch.stack([start(i) for i in range(3)])
    if diverged is not None:
        deltas[diverged, 7] = float("nan")
    outs, trainings = np.zeros((3, up.payload_bytes()), np.uint8), np.array([[5, 0], [5, 1], [0, 9]])
    clients[0].begin(start()), clients[1].begin(start())
    sizes, keys, errors = clients[0].encode_all(deltas.clone(), outs, trainings)
    assert set(errors) == ({diverged} - {None})
    for i, (client, participation) in enumerate(trainings.tolist()):
        out = np.zeros(up.payload_bytes(), np.uint8)
        if i == diverged:
            assert sizes[i] == 0
            assert errors[i].index == 7
            continue
        made = clients[1].encode(deltas[i].clone(), out, client=client, participation=participation)
        assert (sizes[i], keys[i]) == made
        assert np.array_equal(outs[i], out)


def test_a_difference_out_of_order_is_refused():
    server, up, down = make(downlink=CODECS["qsgd"], assigns=False)
    replica = Replica(start(), build(CODECS["qsgd"], LAYOUT), assigns=False)
    for _ in range(2):
        upload(server, up, torch.ones(D))
        made, q = step(server, down)
    with pytest.raises(ValueError, match="does not apply to the hidden state of version 0"):
        replica.apply(q, made.key, made.version - 1)
    assert torch.equal(replica.x_hat, start())


def test_payloads_depend_on_the_key_alone():
    _, up, _ = make(CODECS["qsgd"])
    client = Client(Replica(start(), up, assigns=False), up, seed=5)
    one, two, other = (np.zeros(up.payload_bytes(), np.uint8) for _ in range(3))
    client.encode(start(1), one, client=3, participation=7)
    client.encode(start(1), two, client=3, participation=7)
    client.encode(start(1), other, client=4, participation=7)
    assert (one == two).all()
    assert (one != other).any()
