"""The benchmark against other frameworks, with a made-up peer; no real one is needed."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from qafel_mpi.bench.measuring.timing import Limits
from qafel_mpi.bench.peers import environments, flsim, rows, runner, work
from qafel_mpi.bench.peers.rows import OURS, Contender, compared
from qafel_mpi.bench.peers.work import Part
from qafel_mpi.commands.bench import ourselves, peers
from qafel_mpi.tasks.config import TaskConfig
from qafel_mpi.tasks.models import MODELS
from qafel_mpi.tasks.targets import Signature

ONCE = Limits(seconds=0.0, least=1, most=1, warmups=1)
SMALL = Part("mlp", "fedavg", 4, updates=12, clients=4)

# FedAvg of all clients, written out.
PEER = """
import torch

def train(work):
    start = work.arrays["start"]
    for _ in range(work.steps):
        total = torch.zeros_like(start)
        for client in range(work.clients):
            module = work.module()
            torch.nn.utils.vector_to_parameters(start, module.parameters())
            x, y = work.examples(client)
            torch.nn.functional.cross_entropy(module(x), y).backward()
            total += torch.cat([p.grad.flatten() for p in module.parameters()])
        start = start - work.learning_rate * total / work.clients
        work.lap()
    print("chatter")
    return work.report(start, sent_bytes=7.0)
"""
IDLE = """
def train(work):
    for _ in range(work.steps):
        work.lap()
    return work.report(work.arrays["start"])
"""
BROKEN = """
def train(work):
    raise RuntimeError("no such thing")
"""


@pytest.fixture
def in_process(monkeypatch):
    """Contenders answer in this process: a start of Python each would take longer than all of the test."""

    class Process:
        def __init__(self, one, settings):
            self.name, self.found, self.settings = one.name, {}, settings
            scope: dict = {}
            exec(one.recipe.read_text(encoding="utf-8"), scope)
            self.train = scope["train"]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def sample(self):
            todo = runner.Work(**self.settings)
            try:
                self.found = runner.figures(todo, self.train(todo))
            except RuntimeError as error:
                raise environments.PeerError(f"{self.name}: {error}") from error
            return self.found["seconds"] / self.found["updates"]

    monkeypatch.setattr(rows, "Process", Process)


def peer(folder: Path, name: str, text: str) -> Contender:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return Contender(name, Path(sys.executable), path, ("fedavg",))


def test_a_peer_that_does_the_same_work_ends_with_our_model(in_process, tmp_path):
    said: list[str] = []
    found = list(
        rows.rows(
            [rows.ourselves(Path(ourselves.__file__)), peer(tmp_path, "plain", PEER)],
            [SMALL],
            ONCE,
            said.append,
        )
    )
    assert said == []
    assert [row.parameters.get("against") for row in found] == [None, "plain"]
    columns = found[1].columns()
    assert columns["apart"] < 1e-4
    assert columns["comparable"] == 1
    assert columns["peer_accuracy"] == columns["accuracy"]
    assert columns["peer_sent_bytes"] == 7
    assert columns["reported_bytes"] == 4 * 4810 * (1 + 1 / 4)  # float32: every client up, every round down
    assert columns["reference"] == "plain"


def test_a_peer_that_learns_nothing_is_said_to_be_void_and_one_that_fails_is_left_out(in_process, tmp_path):
    said: list[str] = []
    found = list(
        rows.rows(
            [
                Contender(OURS, Path(sys.executable), peer(tmp_path, "ours", PEER).recipe, work.ALGORITHMS),
                peer(tmp_path, "idle", IDLE),
                peer(tmp_path, "broken", BROKEN),
            ],
            [Part("mlp", "fedavg", 4, updates=12, clients=4)],
            ONCE,
            said.append,
        )
    )
    assert [row.parameters.get("against") for row in found] == [None, "idle"]
    assert found[1].columns()["comparable"] == 0
    assert "left out: broken: no such thing" in said[0]
    assert "void" in said[1]


def test_a_peer_takes_part_only_in_what_it_can_do(in_process, tmp_path):
    ours = Contender(OURS, Path(sys.executable), peer(tmp_path, "ours", PEER).recipe, work.ALGORITHMS)
    part = Part("mlp", "fedbuff", 4, updates=20, clients=4)
    found = list(rows.rows([ours, peer(tmp_path, "plain", PEER)], [part], ONCE, print))
    assert len(found) == 1


def test_a_process_answers_line_by_line_and_says_what_killed_it(tmp_path):
    data = tmp_path / "data.npz"
    work.write(SMALL, data)
    with rows.Process(peer(tmp_path, "plain", PEER), SMALL.settings(data)) as process:
        assert process.sample() > 0
        before = process.found
        assert process.sample() > 0
        assert process.found["digest"] == before["digest"]
        assert process.found["updates"] == 8  # of three steps, two lie between the first lap and the last one
        assert process.found["peak_bytes"] > 50e6
    with (
        rows.Process(peer(tmp_path, "broken", BROKEN), SMALL.settings(data)) as process,
        pytest.raises(environments.PeerError, match=r"broken ended with 1: RuntimeError: no such thing"),
    ):
        process.sample()


@pytest.mark.parametrize("model", work.MODELS)
def test_the_runners_models_compute_what_ours_do(model):
    shape = {"mlp": (64,), "cnn": (1, 32, 32)}[model]
    ours = MODELS[model](TaskConfig(model=model), Signature(shape, 10))
    theirs = runner.MODELS[model](shape, 10)
    names = [name for name, _ in ours.named_parameters()]
    assert names == [name for name, _ in theirs.named_parameters()]
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        ours(x), theirs(x)
    )  # but for rounding: our convolutions are laid out for oneDNN


def test_a_slow_peer_does_a_share_of_the_work_and_is_compared_with_our_share(in_process, tmp_path):
    said: list[str] = []
    ours = Contender(OURS, Path(sys.executable), peer(tmp_path, "ours", PEER).recipe, work.ALGORITHMS)
    slow = peer(tmp_path, "slow", PEER)._replace(share=0.25)
    part = Part("mlp", "fedavg", 4, updates=48, clients=4)
    (_, row) = rows.rows([ours, slow], [part], ONCE, said.append)
    assert said == []
    columns = row.columns()
    assert columns["apart"] == 0
    assert columns["loops"] == 48
    assert columns["reference_loops"] == 8  # two of three steps are timed


def test_work_goes_to_another_process_as_its_settings(tmp_path):
    work.write(SMALL, tmp_path / "data.npz")
    first = runner.Work(**SMALL.settings(tmp_path / "data.npz"))
    sent = pickle.dumps(first)
    assert len(sent) < 1000
    there = pickle.loads(sent)
    assert pickle.loads(sent) is there  # made once
    assert torch.equal(there.arrays["x"], first.arrays["x"])


def test_bytes_on_sockets_are_those_between_the_first_lap_and_the_last_one(monkeypatch, tmp_path):
    work.write(SMALL, tmp_path / "data.npz")
    one = runner.Work(**SMALL.settings(tmp_path / "data.npz"))
    assert one.sent_bytes() is None
    counts = iter([1000, 1800])
    monkeypatch.setattr(runner, "tcp_bytes", lambda: next(counts))
    for _ in range(one.steps):
        one.lap(sockets=True)
    assert one.sent_bytes() == 100  # of 8 updates


def test_unequal_work_is_not_comparable():
    ours = {"digest": [1.0, 0.0], "accuracy": 0.9, "server_steps": 3, "moved": 1.0}
    assert compared(ours, ours) == {"apart": 0.0, "accuracy_short": 0.0, "comparable": 1.0}
    assert compared(ours, {**ours, "digest": [0.0, 1.0]})["comparable"] == 1  # other clients, as good
    assert compared(ours, {**ours, "digest": [0.0, 1.0], "accuracy": 0.7})["comparable"] == 0
    assert compared(ours, {**ours, "server_steps": 2})["comparable"] == 0


def test_the_cnn_sees_each_pixel_enlarged(tmp_path):
    small, large = (tmp_path / f"{model}.npz" for model in ("mlp", "cnn"))
    for model, path in (("mlp", small), ("cnn", large)):
        work.write(Part(model, "fedavg", 2, 2, clients=2), path)
    with np.load(small) as a, np.load(large) as b:
        assert b["x"].shape == (28, 1, 32, 32)
        assert np.array_equal(b["x"][:, 0, ::4, ::4].reshape(28, 64), a["x"])
        assert np.array_equal(b["x"][:, 0, 3::4, 3::4].reshape(28, 64), a["x"])
        assert np.array_equal(np.bincount(a["client"]), [14, 14])


def test_recipes_pin_what_they_install():
    for name in environments.NAMES:
        module = environments.recipe(name)
        assert set(module.ALGORITHMS) <= set(work.ALGORITHMS)
        assert all("==" in one for one in environments.requirements(module) if one != "--no-deps")


def test_what_is_not_installed_is_not_found(tmp_path):
    python = environments.python_of(tmp_path, "pfl")
    assert environments.installed(tmp_path, ["pfl"]) == {}
    python.parent.mkdir(parents=True)
    python.touch()
    assert environments.installed(tmp_path, ["pfl"]) == {"pfl": python}


@pytest.fixture
def pretended_pip(monkeypatch, tmp_path):
    """Environments are empty folders; what pip is called with is kept. An answer: exit code and stderr."""

    class Pip:
        def __init__(self):
            self.calls, self.answer = [], (0, "")

        def run(self, call, **options):
            self.calls.append(call)
            return SimpleNamespace(returncode=self.answer[0], stderr=self.answer[1])

    def create(folder, with_pip):
        for made in (folder / "bin", Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))):
            made.mkdir(parents=True)
        (folder / "bin" / "python").touch()

    pip = Pip()
    monkeypatch.setattr(environments.venv, "create", create)
    monkeypatch.setattr(environments.subprocess, "run", pip.run)
    return pip


@pytest.mark.parametrize("name", environments.NAMES)
def test_an_environment_gets_what_the_recipe_requires_and_sees_our_packages(pretended_pip, tmp_path, name):
    environments.make(tmp_path, name)
    python, *call = pretended_pip.calls[0]
    assert Path(python) == environments.python_of(tmp_path, name)
    assert call == ["-m", "pip", "install", "--quiet", *environments.requirements(environments.recipe(name))]
    assert ("--no-deps" in call) == (name in ("appfl", "flsim"))
    (host,) = (tmp_path / name).rglob(environments.HOST)
    assert host.read_text().strip() == sysconfig.get_path("purelib")
    assert environments.installed(tmp_path, [name])


def test_an_environment_that_could_not_be_made_is_not_taken_for_one(pretended_pip, tmp_path):
    pretended_pip.answer = 1, "a warning\nERROR: No matching distribution found for pfl==0.6.0"
    with pytest.raises(environments.PeerError, match=r"^pfl: pip install pfl==0.6.0: ERROR: No matching"):
        environments.make(tmp_path, "pfl")
    assert environments.installed(tmp_path, ["pfl"]) == {}


def test_install_makes_the_environments_that_are_missing(pretended_pip, tmp_path, capsys):
    environments.make(tmp_path, "pfl")
    peers.peers(folder=tmp_path, install=True, peer="pfl,flsim", model="mlp", algorithm="fedavg", cohort="10")
    assert [Path(call[0]).parts[-3] for call in pretended_pip.calls] == ["pfl", "flsim"]
    assert capsys.readouterr().err == f"# flsim: makes {tmp_path / 'flsim'}\n"


def test_flsims_settings_may_be_defaults_of_other_settings():
    """As they were before Python 3.11; and dataclasses are as they were afterwards."""
    before = dataclasses.dataclass
    with flsim.hashable_dataclasses():

        @dataclasses.dataclass
        class Inner:
            rate: float = 1.0

        @dataclasses.dataclass(repr=True)
        class Outer:
            inner: Inner = Inner()  # noqa: RUF009 - this is the point

    assert Outer().inner == Inner()
    assert dataclasses.dataclass is before


def test_the_family_of_a_process_has_itself():
    assert os.getpid() in runner.family(os.getpid())
    assert json.dumps(runner.peak_bytes()) != "0"
