"""Every setting says what it is, what it takes and where it has an effect."""

from __future__ import annotations

import re

import pytest

from qafel_mpi.config import load
from qafel_mpi.config_listing import Setting, chosen, sections
from qafel_mpi.config_text import ConfigError

EVERY = {setting.key: setting for section in sections() for setting in section.settings}


@pytest.mark.parametrize("setting", EVERY.values(), ids=EVERY)
def test_a_setting_has_a_meaning_in_one_sentence_its_values_and_its_clock(setting: Setting) -> None:
    assert re.fullmatch(r"[A-Z].{15,}\.", setting.meaning), (
        "json_schema_extra and description: see setting.py"
    )
    assert setting.clock in ("wall", "virtual", "both")
    assert setting.values


def test_every_section_has_a_meaning() -> None:
    assert [
        section.key for section in sections() if not section.meaning.split("\n")[0].endswith((".", ":"))
    ] == []


def test_every_setting_of_an_experiment_is_listed() -> None:
    def leaves(value: dict, prefix: str = "") -> list[str]:
        found: list[str] = []
        for key, item in value.items():
            nested = isinstance(item, dict)
            found += leaves(item, f"{prefix}{key}.") if nested else [prefix + key]
        return found

    whole = load("digits", ["clock.kind=virtual", "clock.staleness={kind='constant', max=3}"]).model_dump()
    assert sorted(leaves(whole)) == sorted(EVERY)


def test_the_default_that_is_shown_is_the_one_that_a_run_has() -> None:
    experiment = load("digits")
    assert EVERY["transport.queue_limit"].default == experiment.transport.queue_limit
    assert (EVERY["server.buffer_size"].default_text, EVERY["clock.rate"].default_text) == ("10", "not set")
    assert EVERY["clock.staleness.max"].default_text == "required"


@pytest.mark.parametrize("algorithm", ["fedbuff", "fedasync", "fedavg", "fedpaq", "naive"])
def test_what_an_algorithm_changes_is_shown_beside_the_default(algorithm: str, tmp_path) -> None:
    path = tmp_path / "bare.toml"
    path.write_text(f'algorithm = "{algorithm}"\n[stop]\nuploads = 1\n')
    given = load(str(path)).model_dump()
    for key, setting in EVERY.items():
        section, _, name = key.partition(".")
        if section in ("uplink", "downlink", "server", "staleness"):
            assert given[section][name] == setting.presets.get(algorithm, setting.default), key


def test_a_section_brings_those_within_it_and_a_setting_comes_alone() -> None:
    assert [section.key for section in chosen("clock")] == ["clock", "clock.duration", "clock.staleness"]
    (alone,) = chosen("clock.duration.scale")
    assert [setting.key for setting in alone.settings] == ["clock.duration.scale"]
    assert len(chosen(None)) == len(sections())


@pytest.mark.parametrize(
    ("key", "guess"),
    [("uplnk", "uplink"), ("sever", "server"), ("server.bufer_size", "server.buffer_size")],
)
def test_a_mistyped_section_gets_the_nearest_one(key: str, guess: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"settings {key}: there is no such section; did you mean {guess}\?"
    ):
        chosen(key)
