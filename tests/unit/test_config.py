"""Experiments as text: layers, what is refused and how it is said, and TOML there and back."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qafel_mpi import experiments
from qafel_mpi.algorithms.presets import PRESETS
from qafel_mpi.config import ConfigError, Experiment, from_toml, load, to_toml, variants_of
from qafel_mpi.config_text import MOST_SEEDS, parse_override, parse_seeds, toml_document

SMALLEST = "[stop]\nuploads = 10\n"


@pytest.fixture
def write(tmp_path: Path) -> typing.Callable[[str], str]:
    def _write(text: str, name: str = "mine.toml") -> str:
        path = tmp_path / name
        path.write_text(text + "\n[stop]\nuploads = 10\n", encoding="utf-8")
        return str(path)

    return _write


def problems(path: str, overrides: list[str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides or [])
    return [line.replace(path, "F") for line in caught.value.problems]


# --- what is refused --------------------------------------------------------------------------------


def test_an_unknown_key_gets_the_nearest_known_one(write):
    assert problems(write("[server]\nbuffer_sise = 3")) == [
        "experiment F: server.buffer_sise: unknown key; did you mean buffer_size?"
    ]


def test_an_unknown_key_that_resembles_nothing_gets_all_known_ones(write):
    assert problems(write("[staleness]\nqqq = 3")) == [
        "experiment F: staleness.qqq: unknown key; known: weight, exponent, cutoff, seconds"
    ]


def test_an_unknown_section_gets_the_nearest_known_one(write):
    assert problems(write("[upllink]\nbits = 3"))[0].endswith("upllink: unknown key; did you mean uplink?")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("server.buffer_size=0", "server.buffer_size: 0 is not allowed; it takes a whole number >= 1"),
        ("server.buffer_size=1.5", "it takes a whole number >= 1"),
        ("server.buffer_size=true", "true is not allowed; it takes a whole number >= 1"),
        ('server.buffer_size="10"', '"10" is not allowed; it takes a whole number >= 1'),
        ("server.buffer_size=ten", '"ten" is not allowed; it takes a whole number >= 1'),
        ("server.optimizer=sgdd", "it takes one of sgd, adam, amsgrad; did you mean sgd?"),
        ("server.momentum=1", "it takes a number >= 0 and < 1"),
        ("client.learning_rate=inf", "it must be a finite number"),
        ("uplink.bucket=99999999999999999999", "it must be a number of 64 bits"),
        ("uplink.bucket=9999999999999", "bucket = 9999999999999: from 1 to 1099511627776 elements"),
        ("task.shape=[3,99999999999999999999]", "task.shape: it must be a number of 64 bits"),
        ("task.shape=[0]", "it takes a list, each a whole number >= 1"),
        ("task.shape=[-3,4]", "it takes a list, each a whole number >= 1"),
        ("uplink.bucket=tensr", "it takes a whole number or one of tensor, layer; did you mean tensor?"),
        ("task.shape=[1, 2.5]", "it takes a list, each a whole number >= 1"),
        (
            'uplink.rules=[{match="b", codec="identity", bitz=3}]',
            "uplink.rules.bitz: unknown key; did you mean bits?",
        ),
        ("uplink.rules=3", "it takes a list of tables"),
        (
            'uplink.rules=[{match="b"}]',
            "uplink.rules.codec: missing; it takes one of identity, qsgd",
        ),
        ("algorithm=fedbuf", "did you mean fedbuff?"),
        ("clock.rate=0", "clock.rate: 0 is not allowed; it takes a number > 0"),
        ("seed=-1", "it takes a whole number >= 0"),
        ("server=3", "server: 3 is not allowed; it takes a table of buffer_size, quorum"),
        (
            "task.dataset.name=digits",
            'task.dataset: { name = "digits" } is not allowed; it takes one of digits',
        ),
    ],
)
def test_a_wrong_value_gets_what_is_allowed(write, override, says):
    (line,) = problems(write(""), [override])
    assert says in line
    assert "--set " in line


def test_seeds_that_no_memory_holds_are_refused():
    assert len(parse_seeds(f"0-{MOST_SEEDS - 1}")) == MOST_SEEDS
    for text in ("0-99999999999", f"0-{MOST_SEEDS}", f"7,0-{MOST_SEEDS - 1}"):
        with pytest.raises(ConfigError, match="more than 100,000 seeds"):
            parse_seeds(text)


def test_all_problems_come_in_one_message(write):
    text = "[server]\nbuffer_sise = 3\nmomentum = 2\n[task]\nclients = 0"
    lines = problems(write(text), ["client.batch=3"])
    assert len(lines) == 4
    assert [line for line in lines if line.startswith("--set client.batch: ")]


def test_a_missing_file_is_named_with_its_path_and_the_known_experiments(tmp_path):
    path = tmp_path / "no.toml"
    with pytest.raises(ConfigError, match="No such file") as caught:
        load(str(path))
    assert str(path) in str(caught.value)
    assert "digits" in str(caught.value)
    with pytest.raises(ConfigError, match="did you mean digits"):
        load("digts")


def test_broken_toml_is_named_with_its_line(write):
    assert "at line 1" in problems(write("[server\nbuffer_size = 3"))[0]


@pytest.mark.parametrize("text", ["", "server.buffer_size", "=3", "server.=3", "server.buffer_size=", "a=[1"])
def test_a_broken_override_is_refused(text):
    with pytest.raises(ConfigError, match="--set"):
        load("digits", [text])


def test_a_run_without_an_end_is_refused(tmp_path):
    path = tmp_path / "endless.toml"
    path.write_text("[stop]\n")
    assert "never end" in problems(str(path))[0]
    path.write_text("seed = 1\n")
    assert "stop: missing; it takes a table of accuracy, loss, uploads" in problems(str(path))[0]


VIRTUAL = ["clock.kind=virtual"]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["algorithm=fedavg", "server.buffer_size=101"], "there are 100 (task.clients)"),
        (
            [*VIRTUAL, "algorithm=fedavg", "server.buffer_size=20", "clock.concurrency=10"],
            "(clock.concurrency)",
        ),
        ([*VIRTUAL, "clock.concurrency=101"], "more than there are clients (task.clients = 100)"),
        ([*VIRTUAL, "clock.rate=1000"], "about 798 clients would train at the same time"),
        (
            [*VIRTUAL, "task.clients=ranks"],
            "ranks are no clients: start it under mpirun on the wall clock, or give",
        ),
        (
            [*VIRTUAL, "client.draw=examples"],
            "client.draw = 'examples' has no effect with clock.kind = 'virtual'",
        ),
        (["task.clients=ranks", "client.draw=examples"], "has no effect with task.clients = 'ranks'"),
        (["downlink.delivery=unicast"], "use delivery = 'broadcast'"),
        (["client.local_steps=1", "client.local_epochs=1"], "not both"),
        (["algorithm=quafl", "client.momentum=0.9"], "set client.momentum=0.0"),
        (["algorithm=quafl", "server.buffer_size=101"], "so many different clients are asked"),
        (["algorithm=quafl", "transport.progress=thread"], "set transport.progress=poll"),
        (["algorithm=quafl", "uplink.entropy=zstd"], "which don't get shorter"),
        (["server.quorum=10"], "set quorum below buffer_size"),
        (["server.grace_seconds=1"], "set quorum, below buffer_size"),
        (["server.nesterov=true"], "nesterov = true has no effect with momentum = 0"),
        (["server.quorum=2", "evaluation.target_uploads=steps"], "set evaluation.target_uploads=received"),
        (["algorithm=decoupled", "task.model=logistic"], "set client.optimizer=sgd"),
        (
            [*VIRTUAL, "server.quorum=2", "clock.staleness={kind='uniform', max=3}"],
            "leave one of the two out",
        ),
        (
            [*VIRTUAL, "server.synchronous=true", "clock.staleness={kind='uniform', max=3}"],
            "server.synchronous uses nothing of earlier versions",
        ),
        (
            [*VIRTUAL, "clock.flush_epoch=true", "clock.staleness={kind='uniform', max=3}"],
            "it has no effect with clock.staleness = a table",
        ),
        (
            [*VIRTUAL, "staleness.weight=rate", "clock.staleness={kind='uniform', max=3}"],
            "leave one of the two out",
        ),
    ],
)
def test_what_cannot_run_together_is_refused_with_the_reason(write, overrides, says):
    (line,) = problems(write("[task]\nclients = 100"), overrides)
    assert says in line


def test_a_prescribed_staleness_leaves_the_flush_of_an_experiment_out():
    """A flush moves the version on, and the uploads of later steps are planned by then."""
    assert load("celeba").clock.flush_epoch
    assert not load("celeba", ["clock.staleness={kind='constant', max=0}"]).clock.flush_epoch


def test_the_wall_clock_has_no_use_for_the_schedule_s_limits():
    assert load("digits", ["task.clients=4", "clock.concurrency=20"]).task.population(8) == 4


def test_one_client_a_rank_is_as_many_as_there_are_ranks():
    assert load("digits", ["task.clients=ranks"]).task.population(8) == 8


@pytest.mark.parametrize("name", experiments.names())
def test_every_experiment_says_how_many_clients_it_has(name):
    assert "clients" in experiments.tables(name)["task"]


def test_virtual_seconds_alone_never_end_a_run_on_the_wall_clock(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[stop]\nvirtual_seconds = 5\n")
    assert "no virtual time" in problems(str(path))[0]
    assert load(str(path), ["clock.kind=virtual"]).stop.virtual_seconds == 5


# --- layers -----------------------------------------------------------------------------------------


def test_the_algorithms_of_the_schema_are_the_presets():
    assert typing.get_args(Experiment.model_fields["algorithm"].annotation) == tuple(PRESETS)


def test_a_preset_fills_what_is_left_out_and_sections_override_it(write):
    path = write('algorithm = "naive"\n[downlink]\nbits = 8')
    experiment = load(path)
    assert experiment.downlink.mode == "direct"
    assert experiment.downlink.bits == 8
    assert experiment.uplink.bits == 4


def test_an_override_wins_over_section_and_preset(write):
    path = write("[uplink]\nbits = 8\n[task]\npartition = { kind = 'dirichlet', alpha = 0.5 }")
    experiment = load(
        path, ["uplink.bits=2", "task.partition.alpha=0.1", "task.model=logistic", "task.l2=1/n"]
    )
    assert experiment.uplink.bits == 2
    assert experiment.task.partition.alpha == 0.1
    assert experiment.task.l2 == "1/n"


@pytest.mark.parametrize("algorithm", PRESETS)
@pytest.mark.parametrize("written_for", PRESETS)
def test_naming_another_algorithm_brings_its_preset(write, algorithm, written_for):
    exact = "fed" in written_for or written_for in ("fadas", "ca2fl", "decoupled")
    links = "" if exact else "[uplink]\nlevels = 9\n[downlink]\nbits = 8"
    experiment = load(write(f'algorithm = "{written_for}"\n{links}'), [f"algorithm={algorithm}"])
    bare = load(write(f'algorithm = "{algorithm}"', "bare.toml"))
    assert experiment.uplink.codec == bare.uplink.codec
    assert experiment.downlink.mode == bare.downlink.mode
    assert experiment.downlink.codec == bare.downlink.codec
    assert experiment.server == bare.server
    assert experiment.staleness == bare.staleness
    if links and algorithm in ("qafel", "naive"):
        assert (experiment.uplink.levels, experiment.downlink.bits) == (9, 8), "the quantizers stay"


def test_another_codec_does_not_inherit_the_options_of_the_one_below(write):
    path = write("[uplink]\nbits = 8\nscale = 'l2'")
    experiment = load(path, ["uplink.codec=topk", "uplink.fraction=0.1"])
    assert experiment.uplink.fraction == 0.1
    assert load(path, ["uplink.codec=identity"]).uplink.codec == "identity"
    assert load(path, ["downlink.mode=none"]).downlink.codec == "identity"


def test_alternatives_replace_each_other(write):
    path = write("[client]\nlocal_epochs = 2\n[clock]\nconcurrency = 10")
    experiment = load(path, ["client.local_steps=5", "clock.rate=3"])
    assert (experiment.client.local_epochs, experiment.client.local_steps) == (None, 5)
    assert (experiment.clock.concurrency, experiment.clock.rate) == (None, 3)


def test_variants_are_kept_apart_and_layered_between_file_and_override(write):
    path = write(
        "[uplink]\nbits = 8\n[variants.coarse.uplink]\nbits = 2\n[variants.plain]\nalgorithm = 'fedbuff'"
    )
    assert set(variants_of(path)) == {"coarse", "plain"}
    assert load(path).uplink.bits == 8
    assert load(path, variant="coarse").uplink.bits == 2
    assert load(path, ["uplink.bits=3"], variant="coarse").uplink.bits == 3
    assert load(path, variant="plain").uplink.codec == "identity"
    with pytest.raises(ConfigError, match="did you mean coarse"):
        load(path, variant="corse")


# --- TOML there and back ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", experiments.names())
def test_every_named_experiment_loads_and_has_a_line_and_comes_back_from_its_toml(name):
    experiment = load(name)
    assert experiment.description
    assert "\n" not in experiment.description
    assert from_toml(to_toml(experiment)) == experiment


@pytest.mark.parametrize("name", experiments.names())
def test_every_named_experiment_runs_on_made_data(name):
    made = load(name, ["task.dataset=synthetic"])
    assert made.task.dataset == "synthetic"


positive = st.floats(1e-12, 1e12)
codecs = st.one_of(
    st.just(["codec=identity"]),
    st.builds(lambda bits, bucket: ["codec=qsgd", f"bits={bits}", f"bucket={bucket}"],
              st.integers(1, 16), st.sampled_from(["tensor", "layer", "7"])),
    st.builds(lambda levels, entropy: ["codec=qsgd", f"levels={levels}", "scale=l2", f"entropy={entropy}"],
              st.integers(1, 32767), st.sampled_from(["none", "zstd"])),
    st.builds(lambda bits: ["codec=affine", f"bits={bits}"], st.integers(1, 8)),
    st.builds(lambda bits, bucket: ["codec=affine", f"bits={bits}", f"bucket={bucket}"],
              st.integers(1, 8), st.sampled_from(["layer", "512"])),
    st.builds(lambda codec, share: [f"codec={codec}", f"fraction={share}"],
              st.sampled_from(["topk", "randk"]), st.floats(1e-9, 1)),
    st.builds(lambda most, bits: ["codec=qsgd", f'rules=[{{max_elements={most}, codec="affine", bits={bits}}}]'],
              st.integers(1, 10**9), st.integers(1, 8)),
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    algorithm=st.sampled_from(list(PRESETS)),
    seed=st.integers(0, 2**63 - 1),
    uplink=codecs,
    rate=positive,
    local=st.sampled_from(["epochs", "steps"]),
    shape=st.lists(st.integers(1, 99), min_size=1, max_size=4),
    description=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
)
def test_an_experiment_comes_back_equal_from_its_toml(
    tmp_path_factory, algorithm, seed, uplink, rate, local, shape, description
):
    path = tmp_path_factory.mktemp("toml") / "x.toml"
    path.write_text(toml_document({"description": description, "stop": {"uploads": 1}}), encoding="utf-8")
    overrides = [
        f"algorithm={algorithm}",
        f"seed={seed}",
        f"client.learning_rate={rate!r}",
        f"client.local_{local}=3",
        f"task.shape={json.dumps(shape)}",
        *(f"uplink.{setting}" for setting in uplink),
    ]
    experiment = load(str(path), overrides)
    assert experiment.description == description
    assert from_toml(to_toml(experiment)) == experiment


tables: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab .\"'é\n", max_size=4), inner, max_size=3),
)  # fmt: skip


@given(st.dictionaries(st.text("abc-_ .", max_size=5), tables, max_size=5))
def test_any_nested_value_survives_toml(document):
    import tomllib

    assert tomllib.loads(toml_document(document)) == document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=1e-3", 1e-3),
        ("a.b=true", True),
        ("a.b='x'", "x"),
        ("a.b=plain-word", "plain-word"),
        ("a.b=my.module:function", "my.module:function"),
        ("a.b=1/n", "1/n"),
        ("a.b = 3", 3),
        ("a.b={kind='iid'}", {"kind": "iid"}),
        ("a.b=[1, 2]", [1, 2]),
    ],
)
def test_an_overrides_value_is_toml_or_a_bare_word(text, value):
    assert parse_override(text) == (("a", "b"), value)


def test_evaluations_of_an_epoch_fall_where_the_authors_had_them():
    """CelebA: 7,474 clients are 748 server steps; 26,180, 23,570 and 32,920 uploads to target are 10 a step."""
    evaluation = load("celeba").evaluation
    due = [t for t in range(1, 3300) if evaluation.due(t, clients=7474, buffer_size=10)]
    assert due[:3] == [38, 75, 113]
    assert {2618, 2357, 3292} <= set(due)
    assert len([t for t in due if t <= 748]) == 20
    again = from_toml(to_toml(load("celeba", ["evaluation.every_steps=5"]))).evaluation
    assert (again.every_steps, again.per_epoch) == (5, None)


@pytest.mark.parametrize("key", ["client.local_steps", "client.local_epochs"])
def test_trainings_that_never_end_are_refused(key: str) -> None:
    with pytest.raises(
        ConfigError, match=f"{key}: 1000000000000 is not allowed; it takes a whole number .*<= 1000000"
    ):
        load("digits", [f"{key}=1000000000000"])


def test_rules_stay_with_another_quantizer_and_go_where_the_algorithm_sends_the_full_vector(write):
    path = write('[uplink]\nrules = [{ match = "bias", codec = "identity" }]')
    (rule,) = load(path, ["uplink.codec=eden"]).uplink.rules
    assert (rule.match, rule.codec) == ("bias", "identity")
    assert load(path, ["algorithm=fedbuff"]).uplink.rules == ()
