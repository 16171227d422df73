"""What is learned, on real ranks and on both clocks: text, and targets that are no classes."""

import h5py
import numpy as np
import pytest

from qafel_mpi.config import from_toml, load
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall

SMALL_TEXT = (
    "task.depth=1",
    "task.width=32",
    "task.context=16",
    "seed=1",
    "client.local_steps=20",
    "client.learning_rate=0.05",
    "server.momentum=0.0",
    "server.buffer_size=4",
    "clock.concurrency=4",
    "stop.uploads=240",  # on the wall clock updates are stale, and how much is up to the machine
    "evaluation.every_steps=5",
    "evaluation.examples=200",
)


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("clock", "driver"), [("wall", wall), ("virtual", virtual)])
def test_a_transformer_learns_more_of_real_text_than_byte_frequencies(comm, folder, clock, driver):
    experiment = load("stdlib-text", [*SMALL_TEXT, f"clock.kind={clock}"])
    summary = driver.run(experiment, comm, folder / "a.h5")
    assert summary.bits_per_byte < summary.entropy_bits_per_byte
    assert summary.bits_per_byte == pytest.approx(summary.loss / np.log(2))
    with h5py.File(folder / "a.h5") as file:
        bits = file["steps"]["bits_per_byte"]
        assert file.attrs["entropy_bits_per_byte"] == summary.entropy_bits_per_byte
    evaluated = bits[~np.isnan(bits)]
    assert len(evaluated) < len(bits)
    assert evaluated[0] > 6  # hardly less than the eight of random logits
    assert evaluated[-1] == summary.bits_per_byte


MINE = """
import numpy as np
from torch import nn

from qafel_mpi.tasks import Dataset


def heights(config, data_dir, clients, seed):
    generator = np.random.default_rng(0)
    x = generator.standard_normal((200, 4)).astype(np.float32)
    y = x @ np.array([[1.0, 0.0], [2.0, -1.0], [0.0, 3.0], [1.0, 1.0]])
    return Dataset(x[:160], y[:160], test_x=x[160:], test_y=y[160:], targets="values")


def signs(config, data_dir, clients, seed):
    data = heights(config, data_dir, clients, seed)
    return Dataset(data.x, data.y > 0, test_x=data.test_x, test_y=data.test_y > 0, targets="labels")


def line(config, shape, outputs):
    return nn.Linear(*shape, outputs)
"""


EXPERIMENT = """
task = {{ dataset = "{module}:{data}", model = "{module}:line", clients = 10 }}
client = {{ learning_rate = 0.2, local_steps = 10 }}
server = {{ buffer_size = 5 }}
clock = {{ kind = "{clock}", concurrency = 4 }}
stop = {{ uploads = 100 }}
"""


@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize(("clock", "driver"), [("wall", wall), ("virtual", virtual)])
@pytest.mark.parametrize("data", ["heights", "signs"])
def test_regression_and_several_labels_are_learnt(comm, folder, monkeypatch, clock, driver, data):
    module = f"mine_of_{folder.name.replace('-', '_')}"
    if comm.rank == 0:
        (folder / f"{module}.py").write_text(MINE)
    comm.Barrier()
    monkeypatch.syspath_prepend(str(folder))
    experiment = from_toml(EXPERIMENT.format(module=module, data=data, clock=clock))
    summary = driver.run(experiment, comm, folder / "a.h5")
    with h5py.File(folder / "a.h5") as file:
        steps = file["steps"][:]
    assert summary.loss < 0.7 * steps["loss"][0]
    assert np.isnan(steps["bits_per_byte"]).all()
    if data == "heights":
        assert np.isnan(steps["accuracy"]).all()
    else:
        assert summary.accuracy > 0.8
