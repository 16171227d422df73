"""Sums of whole numbers: the settings that give fractions, or too many of them, are refused with what to set."""

import pytest

from qafel_mpi.config import ConfigError, load

FIXED = ("uplink.codec=fixed", "uplink.spacing=0.01")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((), "staleness.weight = 'polynomial' gives weights that are fractions"),
        (("staleness.weight=nvflare",), "set staleness.weight=constant or cutoff"),
        (("server.weighting=examples",), "server.weighting = 'examples' gives weights without a bound"),
        (("server.clip_norm=2",), "server.clip_norm scales updates by fractions"),
        (("uplink.bits=8", "server.buffer_size=256"), "room for 255 uploads of 8 bits"),
        (
            ("uplink.bits=8", "server.buffer_size=128", "server.calibration=clients"),
            "room for 127 uploads of 8 bits",
        ),
        (("uplink.bits=9",), "bits = 9: fixed takes 2 to 8"),
    ],
)
def test_what_does_not_go_with_whole_numbers_is_refused(given, why):
    constant = () if not given or "weight=" in given[0] else ("staleness.weight=constant",)
    with pytest.raises(ConfigError, match=why):
        load("digits", [*FIXED, *constant, *given])


def test_as_many_uploads_as_there_is_room_for_are_taken():
    made = load("digits", [*FIXED, "staleness.weight=cutoff", "uplink.bits=8", "server.buffer_size=255"])
    assert made.uplink.codec == "fixed"


def test_a_rule_s_codec_counts_too():
    rules = 'uplink.rules=[{max_rank = 1, codec = "fixed", spacing = 0.1, bits = 8}]'
    with pytest.raises(ConfigError, match="room for 255 uploads"):
        load("digits", [rules, "staleness.weight=constant", "server.buffer_size=300"])
