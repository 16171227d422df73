"""Code of the user's own that fails before the run: one DataError with setting, module, function, error and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qafel_mpi.tasks import DataError, Task, build
from qafel_mpi.tasks.config import ClientConfig, TaskConfig

FILE = """
import numpy as np, torch
from torch import nn
from qafel_mpi.tasks import Dataset, Task

def data(config, data_dir, clients, seed):
    {data}
    return Dataset(np.eye(8, 3), np.arange(8) % 2, 2)

def arrays():
    pass

class Net(nn.Linear):
    def __init__(self, config):
        super().__init__(3, 2)
        self.register_buffer("seen", torch.zeros(3))
        self.buffer_policy = {policy}

    def train(self, mode=True):
        {mode}
        return super().train(mode)

    def forward(self, x):
        {forward}
        if self.training:
            self.seen += 1
        return super().forward(x)

def net(config, shape, classes):
    {model}
    return Net(config)

def loss(outputs, y):
    {loss}
    return nn.functional.cross_entropy(outputs, y)

class Own(Task):
    def __init__(self, task, client, data, shares, *, dtype, device, seed):
        {training}
    initial = examples = train = evaluate = gradient_norm_squared = None
"""
SOUND = {
    "data": "pass",
    "policy": "{}",
    "mode": "pass",
    "forward": "pass",
    "model": "pass",
    "loss": "pass",
    "training": "pass",
}
LINE = r"\(.*mine\.py, line \d+\)$"


def made(own_folder: Path, task: dict[str, str], **code: str) -> Task:
    """What a run makes of mine.py with this code in place of what is sound."""
    text = FILE
    for name, line in (SOUND | code).items():
        text = text.replace(f"{{{name}}}", line)
    (own_folder / "mine.py").write_text(text)
    return build(TaskConfig.model_validate({"clients": 2} | task), ClientConfig(local_steps=1), seed=0)


def refused(own_folder: Path, task: dict[str, str], **code: str) -> str:
    with pytest.raises(DataError) as error:
        made(own_folder, task, **code)
    return str(error.value)


def test_what_the_other_tests_change_is_sound(own_folder: Path) -> None:
    task = made(own_folder, {"dataset": "mine:data", "model": "mine:net", "loss": "mine:loss"})
    assert task.layout.names == ("weight", "bias", "seen")


@pytest.mark.parametrize("place", ["data", "mode", "forward", "model", "loss", "training"])
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("return {}['key']", "KeyError: 'key'"),
        ("raise ValueError('bad\\nvalue')", "ValueError: bad"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("np.load('/nowhere.npy')", "FileNotFoundError: .*/nowhere.npy"),
    ],
)
def test_what_code_of_ones_own_raises_is_one_message(
    own_folder: Path, place: str, line: str, says: str
) -> None:
    setting, name = {
        "data": ("dataset", "data"),
        "loss": ("loss", "loss"),
        "training": ("training", "Own"),
    }.get(place, ("model", "net"))
    text = refused(own_folder, {"dataset": "mine:data", setting: f"mine:{name}"}, **{place: line})
    assert text.startswith(f"task.{setting} = 'mine:{name}': ")
    assert re.search(f"{says}.* {LINE}", text), text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("{'seen': lambda v: {}['mend']}", f"KeyError: 'mend' {LINE}"),
        ("{'seen': lambda v: None}", "the function of 'seen' gave None for a tensor of shape"),
        ("{'seen': lambda v: v[:1]}", r"gave a tensor of shape \(1,\)"),
        ("['seen']", "buffer_policy of the model is a list of 1; it is a dictionary"),
    ],
)
def test_a_buffer_policy_that_fails_is_one_message(own_folder: Path, policy: str, says: str) -> None:
    text = refused(own_folder, {"dataset": "mine:data", "model": "mine:net"}, policy=policy)
    assert text.startswith("task.model = 'mine:net': ")
    assert re.search(says, text), text


def test_a_call_that_fails_has_the_line_of_the_function(own_folder: Path) -> None:
    text = refused(own_folder, {"dataset": "mine:arrays"})
    assert "task.dataset = 'mine:arrays': TypeError: arrays() takes 0 positional arguments" in text
    assert text.endswith("mine.py, line 10)")


def test_a_data_set_that_does_not_fit_has_its_line(own_folder: Path) -> None:
    text = refused(own_folder, {"dataset": "mine:data"}, data="return Dataset(np.eye(8, 3), np.arange(7), 2)")
    assert text.startswith("task.dataset = 'mine:data': data set, training part: 8 examples and 7 labels (")
    assert text.endswith("mine.py, line 7)")


def test_code_that_exits_ends_no_run_in_silence(own_folder: Path) -> None:
    text = refused(own_folder, {"dataset": "mine:data"}, data="raise SystemExit(0)")
    assert "task.dataset = 'mine:data': it exits: SystemExit: 0 (" in text
