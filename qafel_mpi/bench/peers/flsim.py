"""FLSim (Meta, 2023): SyncTrainer for FedAvg, AsyncTrainer with FedBuff; one client after the other in one process.

Changed: its settings are made hashable while it is imported, for since Python 3.11 a dataclass refuses others as
defaults. Of what it requires, only what these trainers import is installed, at today's versions. Users are made once,
and nothing is evaluated: all to its advantage. FedBuff's server rate is 1/K, for FLSim adds a sum where the paper has
a mean, and s(τ) is 1 at τ = 0, where FLSim has that at τ = 1. In its time a training starts every second and lasts
as many seconds as the cohort has clients.

Bytes as it reports them, which are 0: its IdentityChannel measures a state dict that nobody fills. Nothing is sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qafel_mpi.bench.peers.runner import Report, Work

REQUIRES = (
    "flsim==0.1.0",
    "antlr4-python3-runtime==4.9.3",
    "hydra-core==1.3.2",
    "omegaconf==2.3.0",
    "opacus==1.6.0",
    "tqdm==4.67.1",
)
BARE = True  # without TensorBoard and torchvision, which its examples use
ALGORITHMS = ("fedavg", "fedbuff")


@contextmanager
def hashable_dataclasses() -> Iterator[None]:
    """Dataclasses made meanwhile may be another's default, as before Python 3.11."""
    plain: Callable[..., Any] = dataclasses.dataclass

    def made(cls: Any = None, /, **options: Any) -> Any:
        if cls is None:
            return lambda later: made(later, **options)
        done = plain(cls, **options)
        if done.__hash__ is None:
            done.__hash__ = object.__hash__
        return done

    dataclasses.dataclass = made
    try:
        yield
    finally:
        dataclasses.dataclass = plain


def train(work: Work) -> Report:
    """A user is a client; an epoch of FLSim is as many updates as there are users."""
    with hashable_dataclasses():
        from flsim.channels.base_channel import FLChannelConfig
        from flsim.clients.base_client import ClientConfig
        from flsim.data.data_provider import FLDataProviderFromList
        from flsim.interfaces.model import IFLModel
        from flsim.optimizers.async_aggregators import FedAvgWithLRFedBuffAggregatorConfig
        from flsim.optimizers.local_optimizers import LocalOptimizerSGDConfig
        from flsim.servers.sync_servers import FedAvgOptimizerConfig, SyncServerConfig
        from flsim.trainers.async_trainer import AsyncTrainer, AsyncTrainerConfig
        from flsim.trainers.sync_trainer import SyncTrainer, SyncTrainerConfig
        from flsim.utils.async_trainer import async_staleness_weights as staleness
        from flsim.utils.async_trainer import training_event_generator as events
        from flsim.utils.async_trainer.async_weights import AsyncWeightConfig
        from flsim.utils.simple_batch_metrics import FLBatchMetrics
        from flsim.utils.timing import training_duration_distribution as durations
    import torch
    from omegaconf import OmegaConf

    class Model(IFLModel):
        def __init__(self) -> None:
            self.module = work.module()

        def fl_forward(self, batch: Any) -> Any:
            x, y = batch
            scores = self.module(x)
            return FLBatchMetrics(
                loss=torch.nn.functional.cross_entropy(scores, y),
                num_examples=len(y),
                predictions=scores,
                targets=y,
                model_inputs=x,
            )

        def fl_create_training_batch(self, *, batch: Any) -> Any:
            return batch

        def fl_get_module(self) -> Any:
            return self.module

        def fl_cuda(self) -> None:
            pass

        def get_eval_metrics(self, batch: Any) -> Any:
            return self.fl_forward(batch)

        def get_num_examples(self, batch: Any) -> int:
            return len(batch[1])

    ended: list[Any] = []  # the model after the last step: an epoch may have more of them

    def lap(trainer: Any) -> None:
        if len(work.laps) < work.steps:
            work.lap()
            parameters = trainer.global_model().fl_get_module().parameters()
            ended[:] = [torch.nn.utils.parameters_to_vector(parameters).detach().clone()]

    class Rounds(SyncTrainer):
        def _train_one_round(self, *about: Any, **more: Any) -> None:
            super()._train_one_round(*about, **more)
            lap(self)

    class Uploads(AsyncTrainer):
        def _global_update_done(self) -> None:
            lap(self)

    common: dict[str, Any] = {
        "do_eval": False,
        "report_train_metrics": False,
        "client": ClientConfig(
            epochs=work.local_steps, optimizer=LocalOptimizerSGDConfig(lr=work.learning_rate)
        ),
        "channel": FLChannelConfig(report_communication_metrics=True),
    }
    if work.algorithm == "fedavg":
        rounds = -(-work.clients // work.cohort)  # in one of its epochs
        server = SyncServerConfig(server_optimizer=FedAvgOptimizerConfig())
        config: Any = SyncTrainerConfig(
            epochs=work.steps / rounds, users_per_round=work.cohort, server=server, **common
        )
        kind: Any = Rounds
    else:
        config = AsyncTrainerConfig(
            epochs=work.steps * work.buffer / work.clients,
            aggregator=FedAvgWithLRFedBuffAggregatorConfig(lr=1 / work.buffer, buffer_size=work.buffer),
            async_weight=AsyncWeightConfig(
                staleness_weight=staleness.PolynomialStalenessWeightConfig(exponent=0.5, avg_staleness=0)
            ),
            training_event_generator=events.AsyncTrainingEventGeneratorConfig(
                training_start_time_distribution=events.ConstantAsyncTrainingStartTimeDistrConfig(),
                duration_distribution_generator=durations.PerUserGaussianDurationDistributionConfig(
                    training_duration_mean=float(work.cohort)
                ),
            ),
            **common,
        )
        kind = Uploads
    model = Model()
    trainer = kind(model=model, **OmegaConf.structured(config))
    users = [[work.examples(user)] for user in range(work.clients)]
    data = FLDataProviderFromList(users, [], [], model)
    trainer.train(data, metrics_reporter=None, num_total_users=work.clients, distributed_world_size=1)
    stats = trainer.channel.stats_collector.get_channel_stats()
    return work.report(ended[0], reported_bytes=sum(one.mean() for one in stats.values()))
