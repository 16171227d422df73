"""Words of the command line, as shells leave them."""

from __future__ import annotations

import pytest
from qafel_analysis.commands.options import expanded as expanded_for_analysis

from qafel_mpi.commands.app import expanded


@pytest.mark.parametrize("expand", [expanded, expanded_for_analysis])
def test_a_tilde_is_expanded_where_shells_leave_it(monkeypatch, expand):
    monkeypatch.setenv("HOME", "/home/me")
    words = {
        "--out=~/a.h5": "--out=/home/me/a.h5",
        "~/a.toml": "/home/me/a.toml",
        "~nobody-at-all/x": "~nobody-at-all/x",
    }
    assert {word: expand(word) for word in words} == words
    for word in ("--out", "a~", "./~/a.h5", "--set", "task.model=~x:y"):
        assert expand(word) == word
