"""What every run refuses before its first step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qafel_mpi.codecs.base import Layout
from qafel_mpi.codecs.identity import Identity
from qafel_mpi.codecs.sparse import TopK
from qafel_mpi.config import ConfigError
from qafel_mpi.drivers.build import Setup, refuse_what_no_message_holds


def setup(elements: int, *, sparse: bool) -> Any:
    layout = Layout(("x",), ((elements,),))
    full = Identity(layout)
    codec = TopK(layout, fraction=0.01) if sparse else full
    task = SimpleNamespace(together=1, layout=layout)
    return Setup(None, task, codec, codec, full, 1, torch.zeros(1), "full", "")  # type: ignore[arg-type]


def test_the_largest_messages_that_mpi_sends_are_sent() -> None:
    refuse_what_no_message_holds(setup((2**31 - 1 - 64) // 4, sparse=False))


def test_larger_ones_are_refused_with_their_bytes_and_what_to_set() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_what_no_message_holds(setup(2**29, sparse=False))
    upload, broadcast, model = caught.value.problems
    holds = "takes 2,147,483,712 bytes, and an MPI message holds 2,147,483,647: "
    assert upload.startswith(f"an upload of 536,870,912 parameters {holds}set fewer uplink.bits")
    assert broadcast.startswith(f"a broadcast of 536,870,912 parameters {holds}set fewer downlink.bits")
    assert model.startswith(
        f"the unquantized model of 536,870,912 parameters {holds}take a model of at most 536,870,895"
    )


def test_small_messages_of_a_large_model_are_refused_for_the_model_that_is_sent_to_who_missed_much() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_what_no_message_holds(setup(2**29, sparse=True))
    assert len(caught.value.problems) == 1
    assert "the unquantized model" in caught.value.problems[0]
