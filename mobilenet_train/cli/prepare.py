"""From a checked configuration to everything a run needs before its first step. Nothing is written."""

from dataclasses import dataclass

import torch

from mobilenet_train.config import TrainConfig
from mobilenet_train.data.balance import class_weights
from mobilenet_train.data.batches import EvalBatches, TrainBatches
from mobilenet_train.data.cache import SILENT, Listener
from mobilenet_train.data.images import Dataset
from mobilenet_train.data.sources import load
from mobilenet_train.distributed import join, local_first, replicate, share_dropout
from mobilenet_train.models import Cost, count_costs
from mobilenet_train.models.build import build_model
from mobilenet_train.runtime import Runtime, prepare
from mobilenet_train.training.ema import Ema
from mobilenet_train.training.fit import Batches
from mobilenet_train.training.optimizer import build_optimizer
from mobilenet_train.training.plan import Plan, make_plan
from mobilenet_train.training.state import TrainState, new_sums


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its first step; nothing is on disk yet."""

    dataset: Dataset
    batches: Batches
    plan: Plan
    state: TrainState
    cost: Cost

    @property
    def config(self) -> TrainConfig:
        return self.plan.config

    @property
    def runtime(self) -> Runtime:
        return self.plan.runtime


def prepare_run(config: TrainConfig, listener: Listener = SILENT) -> Prepared:
    """Reads the data, builds the network and counts its cost; `listener` hears of what takes long.

    Raises UserError if anything does not fit, StoppedError if the listener asks to stop.
    """
    ranks = join()
    runtime = prepare(config.device, ranks)
    dataset = local_first(ranks, lambda: load(config.dataset, config.seed, listener))
    dataset = dataset.to(runtime.device)
    weights = class_weights(dataset.train.labels, len(dataset.class_names)) if config.balance == "loss" else None
    plan = make_plan(config, runtime, len(dataset.train), weights)
    model = build_model(config, len(dataset.class_names))
    cost = count_costs(model, config.dataset.resolution)
    model = model.to(runtime.device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
    share_dropout(model, ranks, config.batch_size)
    if config.device.sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.device.compile is not None:
        model.compile(mode=config.device.compile)
    state = TrainState(
        model=model,
        ema=Ema(model, config.ema.decay) if config.ema.decay else None,
        optimizer=build_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.autocast is torch.float16),
        sums=new_sums(runtime),
        first_bad_step=torch.tensor(-1, device=runtime.device),
        updates=plan.updates,
        replica=replicate(model, ranks, runtime.device),
    )
    return Prepared(dataset, make_batches(config, dataset, runtime), plan, state, cost)


def make_batches(config: TrainConfig, dataset: Dataset, runtime: Runtime) -> Batches:
    pre, layout, size, ranks = dataset.preprocessing, runtime.memory_format, config.eval.batch_size, runtime.ranks
    return Batches(
        train=TrainBatches(
            dataset.train,
            pre,
            config.augment,
            config.batch_size,
            config.seed,
            layout,
            ranks,
            balanced=config.balance == "sampling",
        ),
        test=EvalBatches(dataset.test, pre, size, layout, ranks),
        val=EvalBatches(dataset.val, pre, size, layout, ranks) if dataset.val else None,
    )
