"""Any experiment file, any --set: an experiment, or a message; and a run of what is taken ends, with a message."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import example, given
from hypothesis import strategies as st

from qafel_mpi import experiments
from qafel_mpi.commands.app import main
from qafel_mpi.config import from_toml, load, to_toml, variants_of
from qafel_mpi.config_listing import Setting, sections
from qafel_mpi.config_text import ConfigError
from tests.forked import command
from tests.fuzz.bounds import bounded, inputs
from tests.fuzz.mutations import changed, changes

TEXTS = [experiments.path_of(name).read_bytes() for name in experiments.names()]
SETTINGS = [setting for section in sections() for setting in section.settings]
EXTREMES = [
    "0", "1", "-1", "0.5", "1e300", "-1e300", "1e-300", "nan", "inf", "-inf", "9223372036854775807",
    "9223372036854775808", "2147483648", "1099511627776", "1e9", "true", '""', f'"{"x" * 5000}"', "[]", "{}",
    "[0]", "[-1]", "[9223372036854775807]", "[1e300, 1e300]", "[1, 2, 3]", "1979-05-27", "[[1]]", "x" * 70_000,
]  # fmt: skip


def said(error: ConfigError) -> None:
    assert error.problems
    assert all(line.strip() for line in error.problems)


@given(text=st.sampled_from(TEXTS), done=changes())
@inputs(150)
def test_a_changed_experiment_file_is_read_or_refused(tmp_path_factory, text, done):
    path = tmp_path_factory.getbasetemp() / "changed.toml"
    path.write_bytes(changed(text, done))
    with bounded():
        try:
            variants_of(str(path))
            experiment = load(str(path))
        except ConfigError as error:
            said(error)
            return
        assert from_toml(to_toml(experiment)) == experiment


@given(
    key=st.sampled_from([s.key for s in SETTINGS]) | st.text(max_size=20),
    value=st.sampled_from(EXTREMES) | st.text(max_size=30) | st.integers().map(str) | st.floats().map(repr),
    more=st.sampled_from(["clock.kind=virtual", "clock.kind=wall", "algorithm=fedavg", "clock.start=always"]),
)
@example("clock.duration.sigma", "1e300", "clock.kind=virtual")
@inputs(300)
def test_any_value_of_any_setting_is_taken_or_refused(key, value, more):
    with bounded():
        try:
            experiment = load("digits", [f"{key}={value}", more])
        except ConfigError as error:
            said(error)
            return
        assert from_toml(to_toml(experiment)) == experiment


# --- runs of what is taken --------------------------------------------------------------------------------

TINY = {"task.clients": "20", "server.buffer_size": "2", "stop.uploads": "6", "stop.seconds": "3"}
WORK = ("client.local_epochs", "client.local_steps", "client.pause_seconds")  # much of it takes its time


def beside(setting: Setting) -> Iterator[tuple[str, str]]:
    """Settings with which this one has an effect."""
    section = setting.key.rpartition(".")[0]
    for key, (value, *_) in setting.only_with.items():
        if value is None or value == "module:name" or value == "file":
            continue
        full = key if "." in key or not section else f"{section}.{key}"
        yield full, str(value).lower() if isinstance(value, bool) else str(value)
        if full.endswith(".codec") and value in ("topk", "randk"):
            yield f"{section}.fraction", "0.1"
        if full == "client.schedule.kind":
            yield "client.schedule.steps", "5"
    if section == "clock.staleness":
        yield "clock.staleness.kind", "constant"
        yield "clock.staleness.max", "2"


def runs() -> Iterator[tuple[str, ...]]:
    """One run for each setting and each extreme value of it that is taken."""
    for setting in SETTINGS:
        for value in EXTREMES if setting.key not in WORK else EXTREMES[:2]:
            given_ = {**TINY, **dict(beside(setting)), "clock.kind": "virtual", setting.key: value}
            overrides = tuple(f"{k}={v}" for k, v in given_.items())
            try:
                load("digits", overrides)
            except ConfigError:
                continue
            yield overrides


RUNS = list(runs())


@given(overrides=st.sampled_from(RUNS))
@inputs(8)
def test_a_run_with_an_extreme_setting_ends_with_a_message(tmp_path_factory, overrides):
    words = [word for one in overrides for word in ("--set", one)]
    arguments = ["run", "digits", "--overwrite", "--out", "a.h5", *words]
    end = command(main, arguments, tmp_path_factory.getbasetemp(), seconds=60)
    assert not end.fault((0, 2, 3)), end.words
