"""A codec per tensor: a part is what its own codec makes of it, and the parts together keep the contract."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, NonFiniteError, PayloadError, build
from qafel_mpi.codecs.mixed import Mixed
from qafel_mpi.kernels.keys import splitmix64
from qafel_mpi.testing import CodecContract
from qafel_mpi.testing.codecs import KEY, LAYOUT, decoded, encoded
from qafel_mpi.testing.strategies import gaussian
from tests import pretended_gpu
from tests.pretended_gpu import OnGpu

EXACT = {"max_rank": 1, "codec": "identity"}
RULES: dict[str, dict[str, Any]] = {
    "qsgd, biases exact": {"bits": 4, "rules": [EXACT]},
    "qsgd of long buckets": {"bits": 3, "scale": "l2", "bucket": "tensor", "rules": [EXACT]},
    "sign, zstd": {"codec": "sign", "entropy": "zstd", "rules": [EXACT]},
    "eden, biases exact": {"codec": "eden", "bits": 1, "bucket": 128, "rules": [EXACT]},
    "eden shared": {"codec": "eden", "bits": 2, "rotation": "shared", "bucket": 128, "rules": [EXACT]},
    "affine and topk": {
        "codec": "affine",
        "bits": 4,
        "rules": [{"max_elements": 100, "codec": "topk", "fraction": 0.5}],
    },
    "identity around 2 bits": {
        "codec": "identity",
        "rules": [{"min_elements": 300, "codec": "qsgd", "bits": 2, "transform": "rotation"}],
    },
}


def mixed(name: str, layout: Layout = LAYOUT, dtype: torch.dtype = torch.float32):
    return build(CodecConfig.model_validate(RULES[name]), layout, dtype)


class TestContract(CodecContract):
    @pytest.fixture(
        scope="class", params=[name for name in RULES if "topk" not in name and "300" not in name]
    )
    @classmethod
    def make(cls, request):
        def made(layout: Layout, dtype: torch.dtype):
            settings = dict(RULES[request.param])
            if request.param.startswith("identity") and max(layout.sizes) < 300:
                settings["rules"] = [{**settings["rules"][0], "min_elements": 1}]
            if len(layout.names) == 2:  # hypothesis draws vectors of a matrix and a bias, which may be empty
                settings["rules"] = [{**rule, "max_elements": 10**6} for rule in settings["rules"]]
            return build(CodecConfig.model_validate(settings), layout, dtype)

        return made

    def damaged(self, codec, changes):
        return super().damaged(codec, changes) if not codec.flags else encoded(codec, gaussian(697))[:-1]

    def test_its_id_is_its_own(self, codec):
        assert codec.id == 9


def parts_by_hand(config: dict, names: list[str]) -> list[tuple[dict, list[str]]]:
    (rule,) = config["rules"]
    exempt = {k: v for k, v in rule.items() if k not in ("max_rank", "max_elements", "min_elements")}
    section = {k: v for k, v in config.items() if k not in ("rules", "entropy")}
    return [(exempt, names), (section, [n for n in LAYOUT.names if n not in names])]


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("eden, biases exact", ["a.bias"]),
        ("affine and topk", ["a.bias", "b.weight"]),
        ("identity around 2 bits", ["a.weight"]),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_part_is_what_its_codec_makes_of_its_tensors_one_behind_the_other(name, taken, dtype):
    """Each begins at a multiple of 8 bytes; the second has a key of its own."""
    x, acc = gaussian(697, dtype=dtype), gaussian(697, 1, dtype)
    payload, at, wanted = encoded(mixed(name, dtype=dtype), x), 0, acc.clone()
    places = dict(zip(LAYOUT.names, zip(LAYOUT.offsets, LAYOUT.sizes, strict=False), strict=True))
    for number, (config, names) in enumerate(parts_by_hand(RULES[name], taken)):
        where = np.concatenate([np.arange(places[n][0], sum(places[n])) for n in names])
        shapes = tuple(shape for n, shape in zip(LAYOUT.names, LAYOUT.shapes, strict=True) if n in names)
        alone = build(CodecConfig.model_validate(config), Layout(tuple(names), shapes), dtype)
        key = KEY ^ (splitmix64(number) if number else 0)
        own = encoded(alone, x[where].clone(), key)
        assert payload[at : at + own.size].tobytes() == own.tobytes()
        part = wanted[where].clone()
        alone.accumulate(own, part, 0.3, key)
        wanted[where] = part
        at = -(-(at + own.size) // 8) * 8
    mixed(name, dtype=dtype).accumulate(payload, acc, 0.3, KEY)
    assert torch.allclose(acc, wanted, rtol=1e-6, atol=1e-6)


def test_a_bucket_ends_where_the_tensors_of_its_codec_are_interrupted():
    """600 elements, the bias, 77 elements: buckets of 512, 88 and 77, with their own scales."""
    x = gaussian(697)
    codec = mixed("qsgd, biases exact")
    scales = encoded(codec, x)[80 : 80 + 12].view("<f4")
    top = [float(x[a:b].abs().max()) for a, b in ((0, 512), (512, 600), (620, 697))]
    assert scales.tolist() == top
    assert codec.payload_bytes() == 80 + 12 + 256 + 44 + 39
    assert torch.equal(decoded(codec, x)[600:620], x[600:620])


@pytest.mark.parametrize(
    "name", ["qsgd, biases exact", "qsgd of long buckets", "sign, zstd", "affine and topk"]
)
def test_what_a_gpu_encodes_and_decodes_is_the_same(monkeypatch, name):
    x, codec = gaussian(697), mixed(name)
    payload = encoded(codec, x)
    acc = gaussian(697, 1)
    codec.accumulate(payload, acc, 0.25, KEY)
    pretended_gpu.pretend(monkeypatch)
    there, on_gpu = gaussian(697, 1).as_subclass(OnGpu), mixed(name)
    out = np.zeros_like(payload)
    encoding = on_gpu.begin(x.as_subclass(OnGpu), out, KEY)
    assert encoding.finish() == payload.size
    assert out.tobytes() == payload.tobytes()
    on_gpu.accumulate(payload, there, 0.25, KEY)
    assert torch.equal(acc, there.cpu())


def test_the_first_rule_that_takes_a_tensor_has_it_and_equal_codecs_are_one_part():
    rules = [
        {"match": r"^a\.", "max_rank": 1, "codec": "identity"},
        {"match": "bias|b", "codec": "qsgd", "bits": 8},
        {"min_elements": 600, "codec": "identity"},
    ]
    codec = build(CodecConfig.model_validate({"codec": "sign", "rules": rules}), LAYOUT)
    assert isinstance(codec, Mixed)
    assert [(p.codec.name, p.codec.bits, p.elements) for p in codec.parts] == [
        ("identity", 32, 620),
        ("qsgd", 8, 77),
    ]
    assert codec.parts[0].pieces.tolist() == [[0, 0, 620]], "neighbours are one piece"


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (
            [{"match": "norm", "codec": "identity"}],
            r"rule 1 \(match = 'norm'\) takes no tensor; there are a.weight",
        ),
        (
            [{"max_rank": 3, "codec": "identity"}, {"match": "bias", "codec": "sign"}],
            r"rule 2 \(match = 'bias'\): rule 1 takes all its tensors before it",
        ),
    ],
)
def test_a_rule_that_takes_nothing_is_an_error(rules, says):
    with pytest.raises(Exception, match=says):
        build(CodecConfig.model_validate({"rules": rules}), LAYOUT)


def test_rules_for_a_model_of_one_vector_are_an_error():
    with pytest.raises(Exception, match="this one is a single vector of 5 elements: leave rules out"):
        build(CodecConfig.model_validate({"rules": [EXACT]}), Layout(("weight",), ((5,),)))


def test_ranks_with_other_rules_have_other_fingerprints():
    """Both have the same sizes."""
    layout = Layout(("a.bias", "b.bias", "w"), ((4,), (4,), (8, 8)))
    found = {
        build(
            CodecConfig.model_validate({"codec": "sign", "rules": [{"match": name, "codec": "identity"}]}),
            layout,
        ).fingerprint()
        for name in ("a.bias", "b.bias")
    }
    assert len(found) == 2


def test_a_shared_rotation_sums_in_its_own_basis_and_what_is_exempted_beside_it():
    codec, plain = mixed("eden shared"), gaussian(697, 3)
    assert codec.shared
    assert codec.sum_elements > 697
    payloads = [encoded(codec, gaussian(697, seed)) for seed in range(3)]
    sums, weights = torch.zeros(codec.sum_elements), [1.0, 0.5, 0.25]
    codec.sum_all(payloads, sums, weights, [KEY] * 3)
    plain.zero_()
    for payload, weight in zip(payloads, weights, strict=True):
        codec.accumulate(payload, plain, weight, KEY)
    total = codec.resolve(sums, KEY)
    assert total.shape == (697,)
    assert torch.allclose(total, plain, atol=1e-5)


def test_what_is_wrong_with_one_part_adds_nothing_of_the_others():
    codec, acc = mixed("qsgd, biases exact"), gaussian(697, 9)
    payloads = [encoded(codec, gaussian(697, seed)) for seed in range(3)]
    payloads[2][3] = 0x7F
    payloads[2][2] = 0xFF  # a bias that is no number
    for add in (
        lambda: codec.accumulate(payloads[2], acc, 1.0, KEY),
        lambda: codec.accumulate_all(payloads, acc, [1.0] * 3, [KEY] * 3),
    ):
        with pytest.raises(PayloadError):
            add()
    assert torch.equal(acc, gaussian(697, 9))


def test_what_is_not_finite_is_named_by_its_tensor_in_the_whole_vector():
    x = gaussian(697)
    x[601] = x[650] = float("nan")
    for name in RULES:
        with pytest.raises(NonFiniteError, match=r"'a\.bias', element 1 is nan"):
            encoded(mixed(name), x)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rules": [{"codec": "identity"}]}, "a rule without a condition"),
        ({"rules": [{"match": "(", "codec": "identity"}]}, "not a regular expression"),
        ({"rules": [{"match": "x", "codec": "affine", "bits": 9}]}, "affine takes 1 to 8"),
        ({"rules": [{"match": "x", "bits": 2}]}, "codec"),
        (
            {"codec": "eden", "rotation": "shared", "rules": [{"match": "x", "codec": "qsgd"}]},
            "codec 'qsgd' beside it would round",
        ),
    ],
)
def test_rules_that_make_no_sense_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        CodecConfig.model_validate(settings)


@pytest.mark.parametrize("name", RULES)
def test_the_first_message_of_a_sum_is_as_good_as_added_to_zeros(name):
    codec, x = mixed(name), gaussian(LAYOUT.elements)
    payload = encoded(codec, x)
    wanted = torch.zeros(codec.sum_elements)
    codec.sum_all([payload], wanted, [0.375], [KEY])
    sums = torch.full_like(wanted, float("nan"))
    codec.start_sum(payload, sums, 0.375, KEY)
    assert torch.equal(sums, wanted)
