"""fixed: one spacing for all clients, clipping that is counted, and sums of whole numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qafel_mpi.algorithms.bounds import CLIPPED
from qafel_mpi.algorithms.client import Replica
from qafel_mpi.algorithms.config import ServerConfig, StalenessConfig
from qafel_mpi.algorithms.server import Server, Update
from qafel_mpi.codecs import CodecConfig, Layout, PayloadError, build
from qafel_mpi.codecs.fixed import SUM_LIMIT, Fixed
from qafel_mpi.kernels.reference_fixed import encode_fixed, levels_of_fixed
from qafel_mpi.testing.codecs import encoded
from qafel_mpi.testing.strategies import gaussian

KEY = 7


def fixed(d: int, *, threads: int = 1, **settings) -> Fixed:
    made = build(CodecConfig(codec="fixed", **settings), Layout(("w",), ((d,),)), threads=threads)
    assert isinstance(made, Fixed)
    return made


def sums_of(codec: Fixed, payloads: list[np.ndarray], weights: list[float]) -> torch.Tensor:
    sums = torch.zeros(codec.sum_elements)
    codec.sum_all(payloads, sums, weights, [KEY] * len(payloads))
    return codec.resolve(sums, KEY).clone()


def test_four_numbers_by_hand():
    """s = ½ and 3 bits, so levels to ±3: (1, −1.5, 0, 7) are 2, −3, 0 and 14, which is clipped to 3.

    None lies between two levels, so nothing is drawn. In three bits: 010, 101, 000, 011, the first one lowest:
    011 000 101 010 = 0x62A. Three of these messages and one of (½, ½, ½, ½), whose levels are 1, add up to
    (7, −8, 1, 10), which is (3.5, −4, 0.5, 5).
    """
    codec = fixed(4, bits=3, spacing=0.5)
    payload = encoded(codec, torch.tensor([1, -1.5, 0, 7]))
    assert payload.tolist() == [1, 0, 0, 0, 0x2A, 0x06]
    assert codec.clipped(payload) == 1
    out = torch.zeros(4)
    codec.decode(payload, out, KEY)
    assert out.tolist() == [1, -1.5, 0, 1.5]
    halves = encoded(codec, torch.full((4,), 0.5))
    assert sums_of(codec, [payload, halves, payload, payload], [1.0] * 4).tolist() == [3.5, -4, 0.5, 5]
    assert sums_of(codec, [payload, halves], [3.0, 1.0]).tolist() == [3.5, -4, 0.5, 5]


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("d", [1, 63, 4096, 9001])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_the_kernels_give_the_bytes_and_numbers_of_the_formulas(bits, d, dtype):
    codec, key = fixed(d, bits=bits, spacing=0.3), 0xFEDCBA9876543210
    x = (2 * gaussian(d, bits)).numpy().astype(dtype)
    payload = encoded(codec, torch.from_numpy(x), key)
    assert payload.tobytes() == encode_fixed(x, spacing=0.3, bits=bits, key=key)
    out = torch.zeros(d, dtype=torch.float32 if dtype == "f4" else torch.float64)
    codec.decode(payload, out, key)
    levels = levels_of_fixed(payload, d, bits)
    assert (out.numpy() == levels.astype(dtype) * np.array(0.3, dtype)).all()
    sums = torch.zeros(codec.sum_elements)
    codec.sum_all([payload] * 5, sums, [1.0, 2.0, 1.0, 1.0, -1.0], [key] * 5)
    assert (sums.view(torch.int16)[:d].numpy() == 4 * levels).all()


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=40),
    bits=st.integers(2, 8),
    spacing=st.floats(1e-3, 1e2),
    key=st.integers(0, 2**64 - 1),
)
def test_an_element_is_within_a_spacing_of_its_own_or_at_the_end_of_the_range(values, bits, spacing, key):
    codec, x = fixed(len(values), bits=bits, spacing=spacing), torch.tensor(values, dtype=torch.float32)
    payload, q = encoded(codec, x, key), torch.zeros(len(values))
    codec.decode(payload, q, key)
    reach = spacing * (2 ** (bits - 1) - 1)
    held = x.double().clamp(-reach, reach)
    assert ((q.double() - held).abs() <= spacing * (1 + 1e-4)).all()
    far, near = (x.double().abs() > reach * (1 + 1e-6)), (x.double().abs() > reach * (1 - 1e-6))
    assert int(far.sum()) <= codec.clipped(payload) <= int(near.sum())


def test_the_mean_of_many_messages_is_the_vector_where_nothing_is_clipped():
    """20,000 draws of 5 elements: each mean's standard deviation is at most ½·0.5/√20000 = 0.0018; 5 of them."""
    codec, x = fixed(5, bits=4, spacing=0.5), torch.tensor([0.1, -0.4, 1.13, -2.9, 3.5])
    total, q = torch.zeros(5, dtype=torch.float64), torch.zeros(5)
    for key in range(20_000):
        codec.decode(encoded(codec, x, key), q, key)
        total += q
    assert (total / 20_000 - x).abs().max() < 0.009


@given(
    order=st.permutations(range(9)),
    cuts=st.lists(st.integers(1, 8), max_size=3),
    threads=st.integers(1, 2),
)
def test_a_sum_has_the_same_bits_in_any_order_and_however_many_come_at_once(order, cuts, threads):
    codec = fixed(700, bits=6, spacing=0.1, threads=threads)
    payloads = [encoded(codec, gaussian(700, i), i) for i in range(9)]
    wanted = sums_of(codec, payloads, [1.0] * 9)
    sums = torch.zeros(codec.sum_elements)
    for first, last in zip([0, *sorted(cuts)], [*sorted(cuts), 9], strict=True):
        some = [payloads[i] for i in order[first:last]]
        codec.sum_all(some, sums, [1.0] * len(some), [KEY] * len(some))
    assert torch.equal(codec.resolve(sums, KEY), wanted)


def test_as_many_of_the_largest_codes_as_the_bound_says_do_not_overflow():
    """Also of the code −2^(bits − 1), which no encoder writes and a damaged message may have."""
    codec = fixed(16, bits=8, spacing=1.0)
    worst = np.array([0, 0, 0, 0] + [0x80] * 16, dtype=np.uint8)
    most = SUM_LIMIT // 2**7
    assert sums_of(codec, [worst] * most, [1.0] * most).tolist() == [-128.0 * most] * 16


def test_what_can_not_be_added_as_whole_numbers_is_refused():
    codec = fixed(4, bits=4, spacing=0.5)
    payload, sums = encoded(codec, torch.ones(4)), torch.zeros(codec.sum_elements)
    with pytest.raises(ValueError, match=r"a weight of 0\.5: sums of whole numbers"):
        codec.sum_all([payload], sums, [0.5], [KEY])
    bad = payload.copy()
    bad[:4] = [5, 0, 0, 0]
    for wrong, why in ((payload[:-1], "payload of 5 bytes"), (bad, "5 elements clipped, and there are 4")):
        with pytest.raises(PayloadError, match=why):
            codec.sum_all([payload, wrong], sums, [1.0, 1.0], [KEY] * 2)
        assert not sums.view(torch.int16).any(), "of several none is added"


def test_beside_another_codec_each_part_keeps_its_own_sums():
    layout = Layout(("w", "b"), ((30, 3), (7,)))
    rules = [{"match": "b", "codec": "identity"}]
    codec = build(
        CodecConfig.model_validate({"codec": "fixed", "bits": 5, "spacing": 0.2, "rules": rules}), layout
    )
    payloads = [encoded(codec, gaussian(97, i), i) for i in range(3)]
    wanted = torch.zeros(97)
    for i, payload in enumerate(payloads):
        codec.accumulate(payload, wanted, 1.0, i)
    sums = torch.zeros(codec.sum_elements)
    codec.sum_all(payloads, sums, [1.0] * 3, [0, 1, 2])
    assert torch.allclose(codec.resolve(sums, 0), wanted, atol=1e-6)
    assert codec.clipped(payloads[0]) == int((gaussian(97, 0)[:90].abs() > 3.0).sum())


class Uploads:
    """Six uploads, of which client 4's is clipped, and servers that take them."""

    d = 300
    layout = Layout(("w",), ((d,),))

    def __init__(self, entropy: str):
        config = CodecConfig.model_validate({"codec": "fixed", "bits": 4, "spacing": 0.1, "entropy": entropy})
        self.uplink, self.updates = build(config, self.layout), []
        for client in range(6):
            x, out = gaussian(self.d, client), np.zeros(self.uplink.payload_bytes(), np.uint8)
            size = self.uplink.encode(x * (9 if client == 4 else 0.1), out, client)
            self.updates.append(Update(client, 0, out[:size].copy(), client))

    def server(self) -> Server:
        replica = Replica(
            torch.zeros(self.d), build(CodecConfig(codec="identity"), self.layout), assigns=True
        )
        constant = StalenessConfig(weight="constant")
        return Server(
            torch.zeros(self.d),
            self.uplink,
            replica,
            ServerConfig(buffer_size=6),
            constant,
            seed=0,
            clients=6,
        )

    def receive(self, server: Server, clients: tuple[int, ...], at_once: int) -> list[tuple[int, str]]:
        """(client, kind) of what the server found."""
        found = []
        for first in range(0, len(clients), at_once):
            some = [self.updates[i] for i in clients[first : first + at_once]]
            server.receive_all(some)
            found += [(some[f.at].client, f.kind) for f in server.findings]
        return found

    def model(self, server: Server) -> list[float]:
        server.step(np.zeros(server.replica.downlink.payload_bytes(), np.uint8))
        return server.x.tolist()


@pytest.mark.parametrize("entropy", ["none", "zstd"])
def test_a_step_does_not_depend_on_the_order_of_its_uploads_and_clipping_is_counted_with_its_client(entropy):
    uploads, models = Uploads(entropy), []
    for order, at_once in (((0, 1, 2, 3, 4, 5), 1), ((5, 4, 3, 2, 1, 0), 6), ((4, 0, 2, 5, 1, 3), 2)):
        server = uploads.server()
        assert uploads.receive(server, order, at_once) == [(4, CLIPPED)]
        models.append(uploads.model(server))
    assert any(models[0])
    assert models[0] == models[1] == models[2]


def test_a_server_goes_on_from_a_checkpoint_of_half_a_buffer():
    uploads = Uploads("none")
    one, other = uploads.server(), uploads.server()
    uploads.receive(one, (0, 1, 2, 3), 2)
    other.restore(one.state())
    for server in (one, other):
        uploads.receive(server, (4, 5), 1)
    assert uploads.model(one) == uploads.model(other)
