#!/bin/sh
# Flower: FedAvg(fraction_train=0.5, min_available_nodes=100) takes half of the nodes that are there when it looks, and
# only then waits until there are 100. While nodes connect, half of none is less than min_train_nodes, which is 2: two
# clients train. In its simulation this is the first round of every run. Here the nodes come at the second look.
# Way out: give min_train_nodes the number of clients that a round is to have.
# Exit code 0: the behaviour is as described. Anything else: it has changed, and the output says how.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check flwr==1.42.0

cat >"$folder/show.py" <<'PYTHON'
from flwr.app import ArrayRecord, ConfigRecord
from flwr.serverapp.strategy import FedAvg
from flwr.supercore.task_identity import TaskIdentity


class Grid:
    """A hundred nodes, which are there from the second look on."""

    looks = 0

    def get_node_ids(self):
        self.looks += 1
        return [] if self.looks == 1 else list(range(1, 101))


def clients_of_the_first_round(**settings):
    strategy = FedAvg(fraction_train=0.5, min_available_nodes=100, **settings)
    return len(list(strategy.configure_train(1, ArrayRecord(), ConfigRecord(), Grid())))


TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # as in a run
few, all_ = clients_of_the_first_round(), clients_of_the_first_round(min_train_nodes=50)
print(f"Flower 1.42.0, half of 100 nodes: {few} clients train; with min_train_nodes=50: {all_}")
assert few == 2, "it takes the fraction of all nodes now"
assert all_ == 50, "min_train_nodes does not help"
PYTHON
"$folder/venv/bin/python" "$folder/show.py"
