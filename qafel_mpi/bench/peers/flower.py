"""Flower's simulation: FedAvg as a ServerApp, clients as a ClientApp in Ray's processes, by run_simulation.

Changed: one Ray worker with one core; data are loaded once a worker; nothing is evaluated. Training and
model are those of its template for PyTorch. Start and end of Ray are not timed. The cohort is min_train_nodes too: by
fraction_train alone the first round takes 2 clients (findings/flower-takes-its-fraction-too-early.sh).

Bytes: what its processes send by TCP. Ray passes messages above 100 kB (the CNN's) through shared memory, and these
are not in it. The simulation itself reports none. No asynchrony, and no compression: it has FedAvg alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qafel_mpi.bench.peers.runner import Report, Work

REQUIRES = ("flwr[simulation]==1.42.0",)
ALGORITHMS = ("fedavg",)
SHARE = 0.1  # of the work: it takes as long as all of it takes the others
ONE_CORE = {
    "init_args": {"num_cpus": 1, "log_to_driver": False},
    "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
}


def train(work: Work) -> Report:
    """FedAvg with a fraction of the nodes, drawn anew every round."""
    import torch
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    server, client = ServerApp(), ClientApp()

    @client.train()
    def local(message: Any, context: Any) -> Any:
        x, y = work.examples(int(context.node_config["partition-id"]))
        model = work.module()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
        for _ in range(work.local_steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        content = {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(y)}),
        }
        return Message(content=RecordDict(content), reply_to=message)

    class Laps(FedAvg):
        def aggregate_train(self, server_round: int, replies: Any) -> Any:
            found = super().aggregate_train(server_round, replies)
            work.lap(sockets=True)
            return found

    ended = []

    @server.main()
    def main(grid: Any, context: Any) -> None:
        strategy = Laps(
            fraction_train=work.cohort / work.clients,
            fraction_evaluate=0.0,
            min_train_nodes=work.cohort,
            min_available_nodes=work.clients,
        )
        arrays = ArrayRecord(work.module().state_dict())
        ended.append(strategy.start(grid=grid, initial_arrays=arrays, num_rounds=work.steps).arrays)

    run_simulation(server, client, num_supernodes=work.clients, backend_config=ONE_CORE)
    state = ended[0].to_torch_state_dict()
    x = torch.cat([state[name].flatten() for name, _ in work.module().named_parameters()])
    return work.report(x, sent_bytes=work.sent_bytes())
