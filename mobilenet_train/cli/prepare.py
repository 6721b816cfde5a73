"""From a checked configuration to everything a run needs before its first step. Nothing is written."""

from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import nn

from mobilenet_train.config import NetworkConfig, TrainConfig
from mobilenet_train.data.batches import EvalBatches, TrainBatches
from mobilenet_train.data.images import Dataset
from mobilenet_train.data.sources import load
from mobilenet_train.errors import RunError
from mobilenet_train.factory import call_factory
from mobilenet_train.models import NETWORKS, Cost, MobileNet, count_costs
from mobilenet_train.runtime import Runtime, prepare
from mobilenet_train.seeding import WEIGHTS, key
from mobilenet_train.training.ema import Ema
from mobilenet_train.training.fit import Batches
from mobilenet_train.training.optimizer import build_optimizer
from mobilenet_train.training.plan import Plan, make_plan
from mobilenet_train.training.pretrained import freeze, start_from
from mobilenet_train.training.schedule import resolution
from mobilenet_train.training.state import TrainState, new_sums


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its first step; nothing is on disk yet."""

    dataset: Dataset
    batches: Batches
    plan: Plan
    state: TrainState
    cost: Cost
    origin: str | None = None  # where the first weights come from, for people

    @property
    def config(self) -> TrainConfig:
        return self.plan.config

    @property
    def runtime(self) -> Runtime:
        return self.plan.runtime


def prepare_run(config: TrainConfig, starts: bool = True) -> Prepared:
    """Reads the data, builds the network and counts its cost. Raises UserError if anything does not fit.

    A run that goes on from its own checkpoint (not `starts`) has no need of model.weights any more.
    """
    runtime = prepare(config.device)
    dataset = for_evaluation(load(config.dataset, config.seed), config)
    plan = make_plan(config, runtime, len(dataset.train))
    dataset = dataset.to(runtime.device)
    model = build_model(config, len(dataset.class_names))
    origin = None
    if isinstance(config.model, NetworkConfig):
        assert isinstance(model, MobileNet)
        if config.model.weights is not None and starts:
            origin = start_from(model, config.model.name, config.model.weights, dataset.class_names)
        freeze(model, config.model.freeze)
    cost = count_costs(model, config.dataset.resolution)
    model = model.to(runtime.device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
    state = TrainState(
        model=model,
        ema=Ema(model, config.ema.decay) if config.ema.decay else None,
        optimizer=build_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.autocast is torch.float16),
        sums=new_sums(runtime.device),
        first_bad_step=torch.tensor(-1, device=runtime.device),
        updates=plan.updates,
    )
    return Prepared(dataset, make_batches(config, dataset, runtime), plan, state, cost, origin)


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The network of the configuration with weights drawn from the seed. Raises UserError if it can't be built."""
    torch.manual_seed(key(config.seed, WEIGHTS))
    sizes = {"num_classes": num_classes, "resolution": config.dataset.resolution}
    if isinstance(config.model, NetworkConfig):
        options = asdict(config.model)
        name, _, _ = (options.pop(key) for key in ("name", "weights", "freeze"))
        return NETWORKS[name](**sizes, **options)
    factory, args = config.model.factory, config.model.args  # type: ignore[attr-defined]
    model = call_factory("model.factory", factory, **sizes, **args)
    if not isinstance(model, nn.Module):
        raise RunError(f"model.factory={factory} returned {type(model).__name__}; return a torch.nn.Module")
    return model


def for_evaluation(dataset: Dataset, config: TrainConfig) -> Dataset:
    """The data set with the resolution and crop of evaluation in its preprocessing."""
    side, ratio = config.eval.resolution or config.dataset.resolution, config.dataset.crop_ratio
    return replace(dataset, preprocessing=replace(dataset.preprocessing, resolution=side, crop_ratio=ratio))


def make_batches(config: TrainConfig, dataset: Dataset, runtime: Runtime) -> Batches:
    pre, layout, size = dataset.preprocessing, runtime.memory_format, config.eval.batch_size
    return Batches(
        train=TrainBatches(
            dataset.train,
            pre,
            config.augment,
            config.batch_size,
            config.seed,
            layout,
            classes=len(dataset.class_names),
            resolution_of=partial(
                resolution, epochs=config.epochs or 0, full=config.dataset.resolution, progressive=config.progressive
            ),
        ),
        test=EvalBatches(dataset.test, pre, size, layout),
        val=EvalBatches(dataset.val, pre, size, layout) if dataset.val else None,
    )
