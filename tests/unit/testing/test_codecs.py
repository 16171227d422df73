"""The codec contract finds faults, and the codec of docs/your-own.md keeps it and runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qafel_mpi.codecs import CodecConfig, build
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.codecs.sizes import paper_message_bytes
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.parsing import DataError
from qafel_mpi.testing import CodecContract
from qafel_mpi.testing.codecs import LAYOUT
from tests.support import ROOT

LISTING = ROOT / "docs/examples/ternary.py"


def listing() -> Any:
    spec = importlib.util.spec_from_file_location("ternary", LISTING)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ternary"] = module
    spec.loader.exec_module(module)
    return module


Ternary = listing().Ternary


class TestTheListingOfTheDocs(CodecContract):
    @pytest.fixture(scope="class")
    @classmethod
    def make(cls) -> Any:
        return Ternary


def test_the_listing_is_short() -> None:
    code = [line for line in LISTING.read_text().splitlines() if line.strip()]
    assert len(code) <= 40


# --- what the contract finds ----------------------------------------------------------------------------------


class Forgetful(Identity):
    """Leaves the last element out when it decodes."""

    id = 201

    def _decode(self, valid: Any, acc: Any, weight: float, key: int, *, assign: bool) -> None:
        last = acc[-1].clone()
        super()._decode(valid, acc, weight, key, assign=assign)
        acc[-1] = last


class Boastful(Ternary):  # type: ignore[misc, valid-type]
    """Claims a δ that it does not have."""

    def delta(self) -> float:
        return 0.9


class Careless(Ternary):  # type: ignore[misc, valid-type]
    """Decodes whatever comes."""

    def validate(self, payload: np.ndarray) -> np.ndarray:
        return payload


class Stateful(Ternary):  # type: ignore[misc, valid-type]
    """Draws from a generator of its own in place of the message's key."""

    count = 0

    def encode(self, x: torch.Tensor, out: np.ndarray, key: int) -> int:
        self.count += 1
        return int(super().encode(x, out, self.count))


class Biased(Ternary):  # type: ignore[misc, valid-type]
    """Rounds every second key up."""

    def encode(self, x: torch.Tensor, out: np.ndarray, key: int) -> int:
        return int(super().encode(x.sign() * x.abs().max() * 0.9 if key % 2 else x, out, key))


@pytest.mark.parametrize(
    ("codec", "test"),
    [
        (Forgetful, "test_decode_accumulate_and_difference_agree_bit_for_bit"),
        (Boastful, "test_definition_2_1_holds_for_the_delta_that_it_guarantees"),
        (Careless, "test_payloads_of_a_wrong_length_are_refused"),
        (Stateful, "test_payloads_depend_on_input_and_key_alone"),
        (Biased, "test_a_codec_that_claims_to_be_unbiased_averages_to_the_input"),
    ],
)
def test_the_contract_finds_a_codec_that_breaks_it(codec: Any, test: str) -> None:
    contract = CodecContract()
    arguments: dict[str, Any] = {"codec": codec(LAYOUT, torch.float32), "make": codec, "dtype": torch.float32}
    method = getattr(contract, test)
    names = method.__code__.co_varnames[1 : method.__code__.co_argcount]
    with pytest.raises((AssertionError, pytest.fail.Exception)):
        method(**{name: arguments[name] for name in names})


# --- as a setting -----------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with the listing in it."""
    (tmp_path / "mycodecs.py").write_text(LISTING.read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "mycodecs", raising=False)
    return tmp_path


def test_a_codec_of_ones_own_is_named_by_module_and_class(here: Path) -> None:
    codec = build(CodecConfig(codec="mycodecs:Ternary"), LAYOUT)
    assert codec.payload_bytes() == 4 + 175
    assert paper_message_bytes(LAYOUT, CodecConfig(codec="mycodecs:Ternary")) == 179
    packed = build(CodecConfig(codec="mycodecs:Ternary", entropy="zstd"), LAYOUT)
    assert packed.fingerprint().startswith("zstd of ternary 2 bits 179 bytes ")


def test_options_reach_the_class(here: Path) -> None:
    (here / "mycodecs.py").write_text(
        LISTING.read_text() + "\n    def __init__(self, layout, dtype=torch.float32, *, width=2):\n"
        "        super().__init__(layout, dtype)\n        self.width = width\n"
    )
    codec: Any = build(CodecConfig(codec="mycodecs:Ternary", options={"width": 3}), LAYOUT)
    assert codec.width == 3
    with pytest.raises(DataError, match=r"unexpected keyword argument 'widht'"):
        build(CodecConfig(codec="mycodecs:Ternary", options={"widht": 3}), LAYOUT)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("class C: pass", "this is no subclass of qafel_mpi.codecs.Codec"),
        ("from qafel_mpi.codecs import Codec\nclass C(Codec): 0", "the class lacks _decode, encode, payload_bytes"),
        ("from qafel_mpi.codecs.sign import Sign\nclass C(Sign): pass", r"id = 6; the ids .* are 128 to 255"),
        ("C = 3", "this is a int, not a function or a class"),
        ("", "has no attribute 'C'"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_codec_is_refused_with_the_reason(here: Path, source: str, says: str) -> None:
    (here / "mycodecs.py").write_text(source)
    with pytest.raises(DataError, match=says):
        build(CodecConfig(codec="mycodecs:C"), LAYOUT)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"codec": "qgsd"}, r"did you mean 'qsgd'\?"),
        ({"codec": "qsgd", "options": {"a": 1}}, "options has no effect with codec = 'qsgd'"),
        ({"codec": "mine:C", "bits": 3}, "bits has no effect with codec = 'mine:C'"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CodecConfig(**settings)


def test_two_versions_of_a_users_file_have_two_fingerprints(here: Path) -> None:
    """The handshake compares them: hosts with different files would decode each other's payloads wrongly."""
    seen = set()
    for text in (LISTING.read_text(), LISTING.read_text() + "# changed\n"):
        (here / "mycodecs.py").write_text(text)
        sys.modules.pop("mycodecs", None)
        importlib.invalidate_caches()
        seen.add(build(CodecConfig(codec="mycodecs:Ternary"), LAYOUT).fingerprint())
    assert len(seen) == 2


def test_a_run_with_a_codec_of_ones_own_learns(here: Path) -> None:
    from mpi4py import MPI

    from qafel_mpi.config import load

    experiment = load(
        "digits",
        ["clock.kind=virtual", "uplink.codec=mycodecs:Ternary", "stop.uploads=1500", "server.buffer_size=10"],
    )
    out = here / "a.h5"
    result = virtual.run(experiment, MPI.COMM_SELF, out)
    assert result.accuracy > 0.5  # one in ten by chance
    assert out.exists()
