"""The contract of a codec (qafel_mpi.codecs.Codec) as a class of tests to inherit from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi.codecs import CODECS, OWN_IDS, Codec, Layout, NonFiniteError, PayloadError
from qafel_mpi.codecs.measure import measure_delta
from qafel_mpi.kernels.keys import Stream, derive
from qafel_mpi.testing.strategies import Damage, damage, gaussian, layouts, overwritten, vectors

MakeCodec = Callable[[Layout, torch.dtype], Codec]

# Two matrices and a bias between them; 697 elements, a multiple of nothing.
LAYOUT = Layout(("a.weight", "a.bias", "b.weight"), ((20, 30), (20,), (7, 11)))
EMPTY = Layout(("empty",), ((0, 3),))
KEY = 7
DRAWS = 2000  # keys over which an unbiased codec is averaged


def encoded(codec: Codec, x: torch.Tensor, key: int = KEY) -> np.ndarray:
    """The payload of x: uint8, as many bytes as encode says."""
    out = np.zeros(codec.payload_bytes(), np.uint8)
    return out[: codec.encode(x, out, key)]


def decoded(codec: Codec, x: torch.Tensor, key: int = KEY) -> torch.Tensor:
    """Q(x). Filled with nan before, so that an element that decode leaves out shows."""
    out = torch.full_like(x, float("nan"))
    codec.decode(encoded(codec, x, key), out, key)
    return out


class CodecContract:
    """Inherit, and give the class-scoped fixture `make`: a function (layout, dtype) -> codec.

    The tests hold a codec to the docstrings of qafel_mpi.codecs.base.Codec. What it claims of itself (unbiased,
    delta) is measured. Random tests have fixed seeds; a false alarm of the slackest one is rarer than 1e-5.
    """

    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> MakeCodec:
        raise NotImplementedError("give the fixture make: a function (layout, dtype) -> codec")

    @pytest.fixture(scope="class")
    @classmethod
    def codec(cls, make: MakeCodec) -> Codec:
        return make(LAYOUT, torch.float32)

    def damaged(self, codec: Codec, changes: Damage) -> np.ndarray:
        """A payload with this damage. Override where the codec wraps another one, to damage what is inside."""
        return overwritten(encoded(codec, gaussian(LAYOUT.elements)), changes)

    # --- sizes, names ---------------------------------------------------------------------------------------

    def test_its_id_is_its_own(self, codec: Codec) -> None:
        kinds = {kind.id: name for name, kind in CODECS.items()}
        assert codec.id in OWN_IDS or kinds.get(codec.id) == codec.name

    def test_a_payload_is_as_long_as_it_says_before_encoding(self, codec: Codec) -> None:
        size = len(encoded(codec, gaussian(LAYOUT.elements)))
        assert size == codec.payload_bytes() or (codec.flags and size < codec.payload_bytes())

    def test_a_layout_without_elements_is_refused(self, make: MakeCodec) -> None:
        with pytest.raises(ValueError, match="nothing to encode"):
            make(EMPTY, torch.float32)

    # --- one Q(x), however it is added --------------------------------------------------------------------------

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_decode_accumulate_and_difference_agree_bit_for_bit(
        self, make: MakeCodec, dtype: torch.dtype
    ) -> None:
        codec, x = make(LAYOUT, dtype), gaussian(LAYOUT.elements, dtype=dtype)
        payload = encoded(codec, x)
        codec.validate(payload)
        q, acc = decoded(codec, x), gaussian(LAYOUT.elements, 1, dtype)
        assert torch.isfinite(q).all(), "decode leaves elements out"
        expected = acc + q
        codec.accumulate(payload, acc, 1.0, KEY)
        assert torch.equal(acc, expected)
        base = gaussian(LAYOUT.elements, 2, dtype)
        moved, out = base.clone(), np.zeros(codec.payload_bytes(), np.uint8)
        size = codec.encode_difference(x, moved, out, KEY)
        difference = torch.full_like(x, float("nan"))
        codec.decode(out[:size], difference, KEY)
        assert torch.equal(moved, base + difference)

    def test_a_weight_scales_what_is_added(self, codec: Codec) -> None:
        x, acc = gaussian(LAYOUT.elements), torch.zeros(LAYOUT.elements)
        codec.accumulate(encoded(codec, x), acc, 0.25, KEY)
        assert torch.allclose(acc, 0.25 * decoded(codec, x), rtol=1e-6)

    def test_payloads_depend_on_input_and_key_alone(self, make: MakeCodec, codec: Codec) -> None:
        x = gaussian(LAYOUT.elements)
        encoded(codec, gaussian(LAYOUT.elements, 5), key=3)  # what it did before must not show
        again = make(LAYOUT, torch.float32)
        assert encoded(codec, x).tobytes() == encoded(again, x.clone()).tobytes()

    @given(data=st.data())
    @settings(max_examples=20)
    def test_any_length_and_any_finite_values_work(self, make: MakeCodec, data: st.DataObject) -> None:
        """One element, lengths that are multiples of nothing, zero vectors, denormals, huge values."""
        layout = data.draw(layouts())
        x = data.draw(vectors(layout.elements))
        codec = make(layout, torch.float32)
        codec.validate(encoded(codec, x))
        q = decoded(codec, x)
        assert torch.isfinite(q).all()
        if not x.any():
            assert not q.any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_several_messages_in_one_call_are_those_of_one_at_a_time_to_the_bit(
        self, make: MakeCodec, dtype: torch.dtype
    ) -> None:
        codec = make(LAYOUT, dtype)
        xs = torch.stack([gaussian(LAYOUT.elements, seed, dtype) for seed in range(5)])
        keys = np.array([7, 8, 2**63, 2**64 - 1, 0], dtype=np.uint64)
        alone = [encoded(codec, x, key) for x, key in zip(xs, keys.tolist(), strict=True)]
        rows = np.zeros((5, codec.payload_bytes()), np.uint8)
        for outs in (rows, [np.zeros(codec.payload_bytes() + 3, np.uint8) for _ in range(5)]):
            sizes = codec.encode_all(xs, outs, keys)
            assert [bytes(out[:n]) for out, n in zip(outs, sizes, strict=True)] == [bytes(p) for p in alone]
        weights = [1.0, 0.5, 0.25, 1 / 3, 2.0]
        together, one_by_one = (gaussian(LAYOUT.elements, 9, dtype) for _ in range(2))
        codec.accumulate_all(alone, together, weights, keys.tolist())
        for payload, weight, key in zip(alone, weights, keys.tolist(), strict=True):
            codec.accumulate(payload, one_by_one, weight, key)
        assert torch.equal(together, one_by_one)

    # --- what is refused ------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
    def test_a_value_that_is_not_finite_is_an_error_that_names_the_tensor(
        self, codec: Codec, bad: float
    ) -> None:
        x = gaussian(LAYOUT.elements)
        x[600 + 13] = bad
        with pytest.raises(NonFiniteError, match=r"'a\.bias', element 13") as error:
            encoded(codec, x)
        assert error.value.tensor == "a.bias"

    def test_of_several_vectors_one_that_is_not_finite_is_named(self, codec: Codec) -> None:
        xs = torch.stack([gaussian(LAYOUT.elements, seed) for seed in range(3)])
        xs[1, 605] = float("inf")
        with pytest.raises(NonFiniteError, match=r"'a.bias', element 5 is inf"):
            codec.encode_all(
                xs, np.zeros((3, codec.payload_bytes()), np.uint8), np.arange(3, dtype=np.uint64)
            )

    def test_payloads_of_a_wrong_length_are_refused(self, codec: Codec) -> None:
        with pytest.raises(PayloadError):
            codec.validate(np.zeros(codec.payload_bytes() + 1, np.uint8))
        with pytest.raises(PayloadError):
            codec.validate(encoded(codec, gaussian(LAYOUT.elements))[:-1])

    @given(changes=damage())
    @settings(max_examples=50)
    def test_damaged_payloads_are_refused_or_decode_to_finite_numbers(
        self, codec: Codec, changes: Damage
    ) -> None:
        """And where they are refused, nothing of them is decoded."""
        payload, out = self.damaged(codec, changes), torch.full((LAYOUT.elements,), 3.0)
        try:
            codec.decode(payload, out, KEY)
        except PayloadError:
            assert (out == 3).all()
            return
        assert torch.isfinite(out).all()

    def test_of_several_messages_none_is_added_where_one_can_not_be_decoded(self, codec: Codec) -> None:
        payloads = [encoded(codec, gaussian(LAYOUT.elements, seed)) for seed in range(3)]
        acc = gaussian(LAYOUT.elements, 9)
        with pytest.raises(PayloadError):
            codec.accumulate_all([payloads[0], payloads[1][:-1], payloads[2]], acc, [1.0] * 3, [KEY] * 3)
        assert torch.equal(acc, gaussian(LAYOUT.elements, 9))

    # --- what it claims -------------------------------------------------------------------------------------------

    def test_a_codec_that_claims_to_be_unbiased_averages_to_the_input(self, codec: Codec) -> None:
        """2,000 keys: each coordinate's mean lies within 6 standard errors (false alarm of all 697: below 1e-5).

        Sixteen random bits may leave a bias of 2^-17 levels, far below that. A value so near a level that it is
        hardly ever rounded away has no standard error to measure: 10/n of the largest value is allowed beside.
        """
        if not codec.unbiased:
            return
        x = gaussian(LAYOUT.elements)
        total, squares = torch.zeros_like(x).double(), torch.zeros_like(x).double()
        for key in range(DRAWS):
            q = decoded(codec, x, key=derive(0, Stream.UPLINK, 0, key)).double()
            total += q
            squares += q * q
        mean = total / DRAWS
        error = ((squares / DRAWS - mean**2).clamp(min=0) / DRAWS).sqrt()
        assert ((mean - x).abs() <= 6 * error + 10 / DRAWS * x.abs().max()).all()

    def test_definition_2_1_holds_for_the_delta_that_it_guarantees(self, codec: Codec) -> None:
        """The mean relative error over 200 keys against 1 − δ, with 5% for chance: on Gaussian, heavy-tailed and
        constant data, and where one element is large. Definition 2.1 of arXiv 2308.00263."""
        if (delta := codec.delta()) is None:
            return
        one = torch.full((LAYOUT.elements,), 0.3)
        one[5] = 1
        for x in (
            gaussian(LAYOUT.elements),
            gaussian(LAYOUT.elements, 3) ** 5,
            one,
            torch.ones(LAYOUT.elements),
        ):
            error = 1 - measure_delta(codec, [x] * 200, seed=1)
            assert error <= (1 - delta) * 1.05 + 1e-12
