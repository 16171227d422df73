"""APPFL (Argonne): its virtual-time simulation (appfl.vsim), one client after the other in one process.

Changed: agents get model and data as objects in place of files; batches are whole, and not shuffled; all clients are
equally fast; nothing is validated; alpha is 1. FedBuff as it is: a step adds the sum of s(τ)(y − x) over num_clients,
x being the model on arrival, where the paper has a mean of K; ours is the paper's.

Left as it is: it collects garbage several times an update (optimize_memory), and writes a line of its log. On a busy
machine an update took 2.6 s, of which training was some milliseconds.
Bytes as it reports them: float32 both ways. Nothing is sent.
"""

from __future__ import annotations

import logging
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qafel_mpi.bench.peers.runner import Report, Work

REQUIRES = (
    "appfl==1.12.0",
    "antlr4-python3-runtime==4.9.3",
    "colorama==0.4.6",
    "omegaconf==2.3.0",
    "opacus==1.6.0",
    "seaborn==0.13.2",
)
BARE = True  # without what these require: clients of clouds and of Globus, which a simulation does not use
UNUSED = ("piq", "wandb")  # imported by it, and not called here: piq wants torchvision, built like torch
ALGORITHMS = ("fedavg", "fedbuff")
SHARE = 0.01  # of the work: three server steps take it longer than all of it takes the others


def train(work: Work) -> Report:
    """SyncSimDriver with FedAvgAggregator, or AsyncSimDriver with FedBuffAggregator."""
    import torch

    for name in UNUSED:
        sys.modules.setdefault(name, ModuleType(name))
    vars(sys.modules["wandb"])["run"] = None  # nobody watches
    from appfl.agent.sim_client import SimClientAgent
    from appfl.agent.sim_server import SimServerAgent
    from appfl.vsim.async_sim_driver import AsyncSimDriver
    from appfl.vsim.client_profile import ClientProfile
    from appfl.vsim.sync_sim_driver import SyncSimDriver

    class Server(SimServerAgent):
        def _load_model(self) -> None:
            self.model = work.module()

    class Client(SimClientAgent):
        def _load_model(self) -> None:
            self.model = work.module()

        def _load_metric(self) -> None:  # of every training: it has no default
            self.metric = lambda true, predicted: (predicted.argmax(1) == true).mean()

    class Rounds(SyncSimDriver):
        def _record_round(self, *about: Any, **more: Any) -> None:
            super()._record_round(*about, **more)
            work.lap()

    class Uploads(AsyncSimDriver):
        def _handle_train_complete(self, cid: str, completion_time: float) -> None:
            super()._handle_train_complete(cid, completion_time)
            if len(self.history) % work.buffer == 0:
                work.lap()

    training = {
        "trainer": "VanillaTrainer",
        "mode": "epoch",
        "num_local_epochs": work.local_steps,
        "optim": "SGD",
        "optim_args": {"lr": work.learning_rate},
        "loss_fn": "CrossEntropyLoss",
        "train_batch_size": len(work.examples(0)[1]),
        "train_data_shuffle": False,
        "device": "cpu",
    }
    synchronous = work.algorithm == "fedavg"
    server = Server(
        {
            "client_configs": {"train_configs": training},
            "server_configs": {
                "device": "cpu",
                "num_global_epochs": work.steps * (1 if synchronous else work.buffer),
                "scheduler": "SyncScheduler" if synchronous else "AsyncScheduler",
                "scheduler_kwargs": {"num_clients": work.cohort},
                "aggregator": "FedAvgAggregator" if synchronous else "FedBuffAggregator",
                "aggregator_kwargs": {
                    "K": work.buffer,
                    "alpha": 1.0,
                    "staleness_fn": "polynomial",
                    "staleness_fn_kwargs": {"a": 0.5},
                },
            },
        },
        num_clients=work.clients,
    )
    clients = [
        Client({"train_configs": training}, str(i), torch.utils.data.TensorDataset(*work.examples(i)))
        for i in range(work.clients)
    ]
    profiles = {client.get_id(): ClientProfile() for client in clients}
    common = {"logger": logging.getLogger("vsim"), "seed": work.seed, "base_step_time": 0.01}
    driver: Any = (
        Rounds(server, clients, profiles, work.cohort, target_rounds=work.steps, **common)
        if synchronous
        else Uploads(server, clients, profiles, max_in_flight=work.cohort, **common)
    )
    driver.run()
    state = server.get_parameters(serial_run=True)
    x = torch.cat([state[name].flatten() for name, _ in work.module().named_parameters()])
    reported = driver._total_comm_bytes / len(driver.history)
    return work.report(x, reported_bytes=reported / (work.cohort if synchronous else 1))
