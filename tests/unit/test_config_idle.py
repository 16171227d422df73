"""Settings that are ignored, or mean two things: what was given and has no effect is refused, whatever its value."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from qafel_mpi import tasks
from qafel_mpi.algorithms.presets import DEFINING, PRESETS
from qafel_mpi.config import ConfigError, Experiment, from_toml, load, refuse_other_clock, to_toml
from qafel_mpi.config_idle import settings_in
from qafel_mpi.config_listing import sections
from qafel_mpi.config_text import allowed, follow
from qafel_mpi.setting import conditions_of

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str, name: str = "mine.toml") -> str:
        path = tmp_path / name
        path.write_text(f"{text}\n[stop]\nuploads = 10\n", encoding="utf-8")
        return str(path)

    return _write


def problems(path: str, *overrides: str, variant: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides, variant)
    return [line.replace(path, "F") for line in caught.value.problems]


# --- refused, whatever its value --------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4])
def test_bits_of_an_identity_codec_are_refused_also_where_they_are_the_default(write: Write, bits: int):
    only = "only with uplink.codec = 'qsgd' or 'affine' or 'eden' or 'lattice' or 'fixed'"
    reason = f"it has no effect with uplink.codec = 'identity', {only}"
    fedbuff = write('algorithm = "fedbuff"')
    assert problems(fedbuff, f"uplink.bits={bits}") == [f"--set uplink.bits: {reason}"]
    assert problems(write("[uplink]\ncodec = 'identity'"), f"uplink.bits={bits}") == [
        f"--set uplink.bits: {reason}"
    ]
    path = write(f'algorithm = "fedbuff"\n[uplink]\nbits = {bits}')
    assert problems(path) == [f"experiment F: uplink.bits: {reason}"]


@pytest.mark.parametrize(
    ("text", "overrides", "refused"),
    [
        ("", ["task.l2=0.0"], "task.l2"),
        ("", ["server.beta1=0.9"], "server.beta1"),
        ("[server]\noptimizer = 'adam'", ["server.momentum=0.0"], "server.momentum"),
        ("[staleness]\nweight = 'constant'", ["staleness.exponent=0.5"], "staleness.exponent"),
        ("[clock]\nstart = 'always'", ["clock.limit=5"], "clock.limit"),
        ("[clock]\nstaleness = { kind = 'constant', max = 3 }", ["clock.dropout=0.0"], "clock.dropout"),
        (
            "[clock.staleness]\nkind = 'constant'\nmax = 3",
            ["clock.duration.scale=1.0"],
            "clock.duration.scale",
        ),
        ('algorithm = "fedavg"', ["clock.rate=3"], "clock.rate"),
        ('algorithm = "fedbuff"', ["downlink.bucket=512"], "downlink.bucket"),
        ("[uplink]\nlevels = 5", ["uplink.levels=5", "uplink.bits=4"], "uplink.bits"),
        ("", ["uplink.options={a=1}"], "uplink.options"),
        ("", ["task.partition.alpha=0.5"], "task.partition.alpha"),
    ],
)
def test_what_was_given_and_has_no_effect_is_refused(write: Write, text, overrides, refused):
    (line,) = problems(write(text), *overrides)
    assert line.startswith(f"--set {refused}: it has no effect with")


def test_a_setting_is_refused_for_the_one_mistake_that_was_made(write: Write):
    """Not a second time because the mistyped setting makes it idle."""
    (line,) = problems(write("[task]\nmodel = 'mlpp'\nhidden = 3"))
    assert "did you mean 'mlp'?" in line


def test_a_variant_that_gives_what_has_no_effect_is_refused(write: Write):
    path = write("[variants.v]\nalgorithm = 'fedbuff'\nuplink.bits = 4")
    assert load(path)
    assert problems(path, variant="v")[0].startswith("experiment F, variant v: uplink.bits: it has no effect")


@pytest.mark.parametrize(
    "key", [f"{s.key}: {k}" for section in sections() for s in section.settings for k in s.only_with]
)
def test_every_condition_names_a_setting_and_values_that_it_takes(key: str):
    setting, _, name = key.partition(": ")
    keys = tuple(name.split(".")) if "." in name else (*setting.split(".")[:-1], name)
    path, field, _ = follow(keys, Experiment)
    assert path == keys
    assert field is not None
    _, own, _ = follow(tuple(setting.split(".")), Experiment)
    assert own is not None
    for value in conditions_of(own.json_schema_extra)[name]:
        word = str(value).lower() if isinstance(value, bool) else str(value)
        assert value in ("module:name", None) or word in re.findall(r"[\w-]+", allowed(field))


# --- what a higher layer makes idle -----------------------------------------------------------------


def test_what_a_higher_layer_makes_idle_in_a_lower_one_is_left_out(write: Write):
    path = write("[task]\nhidden = 32\n[server]\nmomentum = 0.9\n[clock]\nrate = 3.0")
    assert load(path, ["task.model=cnn"]).task.hidden == 64
    assert load(path, ["server.optimizer=adam"]).server.momentum == 0.0
    assert load(path, ["clock.staleness={kind='constant', max=2}"]).clock.rate is None
    assert load(path, ["algorithm=fedavg"]).clock.rate is None
    again = load(path, ["task.model=cnn", "clock.duration.sigma=2", "clock.duration.kind=log-normal"])
    assert again.clock.duration.sigma == 2


def test_a_second_algorithm_leaves_nothing_of_the_first_ones_preset(write: Write):
    path = write("[variants.v]\nalgorithm = 'fedasync'")
    assert load(path, variant="v").server.update == "model"
    assert load(path, ["algorithm=fedbuff"], "v") == load(write('algorithm = "fedbuff"', "bare.toml"))


def test_an_experiment_from_a_trace_may_give_everything(write: Write):
    """A trace has all settings, also those that have no effect."""
    experiment = load(write('algorithm = "fedbuff"\n[staleness]\nweight = "constant"'))
    text = to_toml(experiment)
    assert "bits = 4" in text
    assert from_toml(text) == experiment


# --- the other clock --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "clock", "says"),
    [
        ("clock.rate=3", "wall", "--set clock.rate: it has no effect on the wall clock, only on the virtual"),
        ("clock.duration={scale=2.0}", "wall", "--set clock.duration.scale: it has no effect on the wall"),
        (
            "client.pause_seconds=0.0",
            "virtual",
            "--set client.pause_seconds: it has no effect on the virtual",
        ),
    ],
)
def test_what_is_set_by_hand_for_the_other_clock_is_refused(override: str, clock: str, says: str):
    with pytest.raises(ConfigError, match=says):
        refuse_other_clock([override], clock)
    refuse_other_clock([override], {"wall": "virtual", "virtual": "wall"}[clock])
    refuse_other_clock(["server.buffer_size=3"], clock)


# --- names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", PRESETS)
def test_an_algorithm_by_its_preset_has_its_plain_name(write: Write, algorithm: str):
    assert load(write(f'algorithm = "{algorithm}"')).algorithm_label == algorithm
    assert set(settings_in(PRESETS[algorithm], Experiment)) <= set(
        settings_in(to_tables(algorithm), Experiment)
    )


def to_tables(algorithm: str) -> dict:
    """All settings of an algorithm, as nested tables."""
    return Experiment.model_validate({"algorithm": algorithm, "stop": {"steps": 1}}).model_dump()


@pytest.mark.parametrize(
    ("algorithm", "sections", "label"),
    [
        ("fedbuff", "[uplink]\ncodec = 'qsgd'", "fedbuff (uplink.codec = qsgd)"),
        ("fedbuff", "[downlink]\nmode = 'hidden'", "fedbuff (downlink.codec = qsgd)"),
        ("qafel", "[downlink]\nmode = 'none'", "qafel (downlink.mode = none)"),
        ("fedasync", "[server]\nbuffer_size = 5", "fedasync (server.buffer_size = 5)"),
        (
            "fedavg",
            "[server]\nsynchronous = false\nweighting = 'uniform'",
            "fedavg (server.synchronous = false, server.weighting = uniform)",
        ),
    ],
)
def test_a_preset_whose_defining_parts_are_overridden_has_another_name(write, algorithm, sections, label):
    assert load(write(f'algorithm = "{algorithm}"\n{sections}')).algorithm_label == label


def test_the_same_file_is_one_thing_in_toml_and_another_by_name_and_both_say_what_they_are(write: Write):
    path = write("[uplink]\ncodec = 'qsgd'\nbits = 4")
    assert load(path, ["algorithm=fedbuff"]).algorithm_label == "fedbuff"
    both = write("algorithm = 'fedbuff'\n[uplink]\ncodec = 'qsgd'\nbits = 4", "both.toml")
    assert load(both).algorithm_label == "fedbuff (uplink.codec = qsgd)"


def test_every_algorithm_has_its_definition() -> None:
    assert DEFINING.keys() == PRESETS.keys()


# --- what a named data set states --------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("shape", (1, 8, 8)), ("classes", 9)])
def test_a_shape_that_the_named_data_set_does_not_have_is_refused(key: str, value: object):
    experiment = load("digits", ["task.clients=30"])
    config = experiment.task.model_copy(update={key: value})
    with pytest.raises(tasks.DataError, match=rf"task\.{key} = .*: the examples of digits have {key}"):
        tasks.build(config, experiment.client, seed=0)
    right = experiment.task.model_copy(update={"shape": (64,), "classes": 10})
    assert np.isfinite(tasks.build(right, experiment.client, seed=0).initial(0).numpy()).all()
