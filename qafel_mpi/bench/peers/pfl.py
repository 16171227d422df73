"""pfl-research (Apple): FederatedAveraging on its SimulatedBackend, in one process.

Changed: users' data sets are made once and kept, nothing is evaluated after the first round, and metrics are not
printed: all to its advantage. The central optimizer is SGD with a rate of 1: FedAvg's mean.

No asynchrony, and no compression: it has FedAvg alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qafel_mpi.bench.peers.runner import Report, Work

REQUIRES = ("pfl==0.6.0",)
ALGORITHMS = ("fedavg",)


def train(work: Work) -> Report:
    """FedAvg with a cohort drawn anew every round."""
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.data.sampling import get_user_sampler
    from pfl.hyperparam import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    class Lap(TrainingProcessCallback):
        def after_central_iteration(self, metrics: Any, model: Any, *, central_iteration: int) -> Any:
            work.lap()
            return False, Metrics()

    module: Any = work.module()
    module.loss = lambda x, y: torch.nn.functional.cross_entropy(module(x), y)
    module.metrics = lambda x, y: {}
    model = PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0))
    users = {user: PyTorchTensorDataset(work.examples(user)) for user in range(work.clients)}
    data = FederatedDataset(users.__getitem__, get_user_sampler("minimize_reuse", list(users)))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=work.steps,
            evaluation_frequency=work.steps + 1,  # before the first lap alone
            train_cohort_size=work.cohort,
            val_cohort_size=0,
        ),
        SimulatedBackend(data, data),
        model,
        NNTrainHyperParams(
            local_batch_size=None,
            local_num_epochs=work.local_steps,
            local_learning_rate=work.learning_rate,
        ),
        callbacks=[Lap()],
        send_metrics_to_platform=False,
    )
    return work.report(torch.nn.utils.parameters_to_vector(module.parameters()).detach())
