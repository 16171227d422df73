"""Data in the formats of other tools, and a real ResNet-18, on real ranks and both clocks."""

import json

import h5py
import numpy as np
import pytest

from qafel_mpi.config import from_toml
from qafel_mpi.drivers.virtual import run as virtual
from qafel_mpi.drivers.wall import run as wall
from qafel_mpi.trace_schema import ENDED
from tests.mpi.conftest import same_everywhere

RUNS = {"wall": wall.run, "virtual": virtual.run}
SIZES = [5, 10, 15, 20, 25, 30, 35]  # of each user's training and test examples together; every fifth tests

USERS = """
task = {{ dataset = "{path}", model = "mlp", hidden = 8, clients = 7 }}
client = {{ learning_rate = 0.2, local_epochs = 2, batch_size = 4{draw} }}
server = {{ buffer_size = 3 }}
clock = {{ kind = "{clock}", concurrency = 4 }}
stop = {{ uploads = 90 }}
"""


def population():
    """x (140, 4), y in two classes that x tells, and the name of each example's user."""
    generator = np.random.default_rng(3)
    x = generator.standard_normal((sum(SIZES), 4)).astype(np.float32)
    return x, (x @ [1, -1, 2, 0.5] > 0).astype(np.int64), np.repeat([f"user {i}" for i in range(7)], SIZES)


def write_leaf(path, x, y, user):
    names = list(dict.fromkeys(user.tolist()))
    data = {name: {"x": x[user == name].tolist(), "y": y[user == name].tolist()} for name in names}
    path.write_text(json.dumps({"users": names, "num_samples": SIZES, "user_data": data}))


def write_tff(path, x, y, user):
    with h5py.File(path, "w") as file:
        for name in np.unique(user):
            file[f"examples/{name}/features"] = x[user == name]
            file[f"examples/{name}/label"] = y[user == name]


def write_npz(path, x, y, user):
    with path.open("wb") as file:
        np.savez(file, x=x, y=y, client=user)


def write_parquet(path, x, y, user):
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {f"feature {i}": x[:, i] for i in range(4)}
    pq.write_table(pa.table({**columns, "label": y, "client": user}), path)


WRITERS = {"leaf": write_leaf, "tff": write_tff, "npz": write_npz, "parquet": write_parquet}


@pytest.mark.usefixtures("abreast")
@pytest.mark.mpi(min_size=2)
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("clock", RUNS)
def test_the_users_of_a_file_are_the_clients_of_a_run_and_what_they_have_is_learnt(comm, folder, kind, clock):
    if comm.rank == 0:
        WRITERS[kind](folder / "data", *population())
    comm.Barrier()
    draw = ', draw = "permutation"' if clock == "wall" else ""
    experiment = from_toml(USERS.format(path=f"{kind}:{folder}/data", clock=clock, draw=draw))
    summary = RUNS[clock](experiment, comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.x_digest)) == 1
    assert summary.outcome == "finished"
    assert summary.accuracy > 0.85
    with h5py.File(folder / "a.h5") as file:
        updates = file["updates"][:]
    played = set(zip(updates["client"].tolist(), updates["examples"].tolist(), strict=True))
    assert played <= {(client, size * 4 // 5) for client, size in enumerate(SIZES)}
    if clock == "wall":  # each rank plays its clients by turns; on the virtual clock chance draws them
        assert len(played) == 7


IMAGES = """
[task]
dataset = "synthetic"
shape = [3, 32, 32]
classes = 3
examples = 12
noise = 0.3
model = "resnet18"
clients = 4
[client]
learning_rate = 0.003
local_steps = 2
[server]
buffer_size = 2
[clock]
kind = "{clock}"
concurrency = 2
[stop]
uploads = 6
[evaluation]
every_steps = 3
"""


@pytest.mark.mpi(min_size=3, max_size=3)  # 11 million parameters are much for one core
@pytest.mark.parametrize("clock", RUNS)
def test_a_real_resnet18_is_trained_with_quantized_messages(comm, folder, clock):
    summary = RUNS[clock](from_toml(IMAGES.format(clock=clock)), comm, folder / "a.h5")
    assert len(same_everywhere(comm, summary.x_digest)) == 1
    with h5py.File(folder / "a.h5") as file:
        about, steps, updates = dict(file.attrs), file["steps"][:], file["updates"][:]
    assert about["parameters"] == 11_689_512 - 512 * 997 - 997 - 3 * 64 * (49 - 9)
    assert about["payload_bytes_per_upload"] < 0.52 * about["parameters"]  # 4 bits, and scales
    assert (updates["use"] != ENDED).sum() == 6  # on the wall clock more may have come behind the last
    assert summary.loss < 0.95 * steps["loss"][0]
