"""A codec of the user's own is tried before the run: what fails is one DataError with its line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch

from qafel_mpi.codecs import CodecConfig, Layout, build
from qafel_mpi.parsing import DataError

FILE = """
import numpy as np
import torch
from qafel_mpi.codecs import Codec


class Halves(Codec):
    name, id, unbiased, bits = "halves", 201, False, 16

    def __init__(self, layout, dtype, scale=1.0):
        super().__init__(layout, dtype)
        {made}

    def payload_bytes(self):
        {size}
        return 2 * self.layout.elements

    def encode(self, x, out, key):
        {encode}
        out[:] = x.numpy().astype(np.float16).view(np.uint8)
        return len(out)

    def _decode(self, valid, acc, weight, key, *, assign):
        {decode}
        values = torch.from_numpy(valid.view(np.float16).copy()).to(acc)
        acc.copy_(values) if assign else acc.add_(values, alpha=weight)
"""
PLACES = ("made", "size", "encode", "decode")


def built(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    code: dict[str, str],
    options: dict[str, float] | None = None,
) -> str:
    """The codec's name, or what a run says of it."""
    text = FILE
    for place in PLACES:
        text = text.replace(f"{{{place}}}", code.get(place, "pass"))
    (tmp_path / "halves.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "halves", raising=False)
    config = CodecConfig.model_validate({"codec": "halves:Halves", "options": options or {}})
    try:
        return build(config, Layout(("w",), ((7,),)), torch.float32).name
    except DataError as error:
        return str(error)


def test_a_sound_one_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(tmp_path, monkeypatch, {}, {"scale": 2.0}) == "halves"


@pytest.mark.parametrize("place", PLACES)
def test_what_it_raises_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    said = built(tmp_path, monkeypatch, {place: "{}['key']"})
    assert re.fullmatch(
        r"codec = 'halves:Halves'.*: (in a trial, )?KeyError: 'key' \(.*halves.py, line \d+\)", said
    ), said


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ({"size": "return None"}, "payload_bytes gave None; it must give a whole number of bytes"),
        ({"encode": "return None"}, "encode gave None; it must give the bytes written, at most 14"),
        ({"encode": "return 15"}, "encode gave 15; it must give the bytes written, at most 14"),
        ({"encode": "x.zero_()"}, "encode changed the vector that it encodes"),
        ({"made": "self.bits = None"}, "the class has bits = None; it must be of type int"),
    ],
)
def test_what_it_gives_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: dict[str, str], says: str
) -> None:
    assert says in built(tmp_path, monkeypatch, code)


def test_options_that_it_does_not_take_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "with options {'other': 1.0}: TypeError" in built(tmp_path, monkeypatch, {}, {"other": 1.0})
