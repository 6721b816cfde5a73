"""From a checked configuration to everything a run needs before its first step. Nothing is written."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mobilenet_train.config.schema import CustomModelConfig, NetworkConfig, TrainConfig
from mobilenet_train.data.balance import class_weights
from mobilenet_train.data.batches import Batches, make_batches
from mobilenet_train.data.cache import SILENT, Listener
from mobilenet_train.data.images import Dataset
from mobilenet_train.data.policies import shrinks
from mobilenet_train.data.sources import load
from mobilenet_train.distributed import join, local_first, replicate, share_dropout
from mobilenet_train.errors import ConfigError
from mobilenet_train.models import Cost, MobileNet
from mobilenet_train.models.build import build_model, cost_of
from mobilenet_train.models.strides import PUBLISHED_STRIDE
from mobilenet_train.runs.leak import refuse_known_test_images
from mobilenet_train.runs.teacher import load_teacher
from mobilenet_train.runtime import Runtime, environment, set_up
from mobilenet_train.training.ema import Ema
from mobilenet_train.training.evaluation import Evaluator
from mobilenet_train.training.graphs import UpdateGraphs
from mobilenet_train.training.optimizer import build_optimizer
from mobilenet_train.training.schedule import Plan, make_plan
from mobilenet_train.training.state import TrainState, new_sums
from mobilenet_train.weights.pretrained import freeze, read_weights, start_from

# How often the arithmetic of a part came to end in other last bits, counted from 1; what is not named never did.
# Muon's kernels are multiplied in stacks now; statistics of batch-norm are added up over ranks in float64;
# balance=sampling has other draws for an image that comes again; resized crops of much larger images are antialiased.
NUMERICS = {"muon": 2, "ranks": 2, "sampling": 3, "shrinking crop": 3}


@dataclass(frozen=True)
class RunParts:
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

    @property
    def environment(self) -> dict[str, Any]:
        """What has to be the same for a resumed run to be bit-identical to an uninterrupted one."""
        runtime, config = self.runtime, self.config
        side = min(self.dataset.train.images.shape[1:3])
        crops = config.augment.resized_crop and shrinks(side, self.plan.resolutions[0])
        ranks, crop = "ranks" if runtime.ranks.size > 1 else "one rank", "shrinking crop" if crops else "crop"
        used = (config.optim.name, config.balance, ranks, crop)
        numerics = max(NUMERICS.get(part, 1) for part in used)
        return {**environment(runtime), "compile": config.device.compile, "numerics": numerics}


def build_run(
    config: TrainConfig, listener: Listener = SILENT, starts: bool = True, schedule_from: int = 0
) -> RunParts:
    """Reads the data, builds the network and counts its cost; `listener` hears of what takes long.

    A run that continues from its own checkpoint (not `starts`) has no need of model.weights any more; its schedule
    begins at update `schedule_from`.
    Raises UserError if anything does not fit, StoppedError if the listener asks to stop.
    """
    ranks = join()
    runtime = set_up(config.device, ranks, isinstance(config.model, CustomModelConfig))
    dataset = for_evaluation(
        local_first(ranks, lambda: load(config.dataset, listener, config.model.in_channels)), config
    )
    dataset = dataset.to(runtime.device)
    per_class = class_weights(dataset.train.labels, len(dataset.class_names)) if config.balance == "loss" else None
    channels = dataset.preprocessing.channels
    check_colour(config, dataset)
    model = build_model(config, len(dataset.class_names), channels)
    origin = prepare(model, config, dataset, listener, starts) if isinstance(config.model, NetworkConfig) else None
    divisor = model.stride_plan.total if isinstance(model, MobileNet) else PUBLISHED_STRIDE
    plan = make_plan(config, runtime, len(dataset.train), divisor, per_class, schedule_from)
    if config.distill.teacher is not None:
        plan = replace(plan, teacher=load_teacher(config, dataset, runtime, listener))
    cost = cost_of(model, config, len(dataset.class_names), channels)
    model = model.to(runtime.device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
    share_dropout(model, ranks, config.batch_size)
    if config.device.sync_batch_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if config.device.compile is not None:
        model.compile(mode=config.device.compile, dynamic=False)
    state = new_state(model, config, plan)
    batches = make_batches(config, dataset, runtime.memory_format, runtime.ranks)
    return RunParts(dataset, batches, plan, state, cost, origin)


def prepare(model: nn.Module, config: TrainConfig, dataset: Dataset, listener: Listener, starts: bool) -> str | None:
    """Applies model.weights, in a run that `starts`, and model.freeze; returns where the weights come from."""
    assert isinstance(config.model, NetworkConfig)
    assert isinstance(model, MobileNet)
    origin, source = None, config.model.weights
    if source is not None and starts:
        weights = read_weights(config.model.name, source, config.model.width_mult)
        said = f"model.weights={source}"
        refuse_known_test_images(config.dataset, dataset.fingerprint, said, weights.checkpoint, listener)
        origin = start_from(model, config.model.name, source, weights, dataset.class_names)
    freeze(model, config.model.freeze)
    return origin


def new_state(model: nn.Module, config: TrainConfig, plan: Plan) -> TrainState:
    """The state before the first update of a `model` that is on its device."""
    runtime = plan.runtime
    state = TrainState(
        model=model,
        ema=Ema(model, config.ema.decay) if config.ema.decay else None,
        optimizer=build_optimizer(model, config.optim, torch.bfloat16 if runtime.precision == "bf16" else None),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.autocast is torch.float16),
        sums=new_sums(runtime),
        first_bad_step=torch.tensor(-1, device=runtime.device),
        updates=plan.updates,
        replica=replicate(model, runtime.ranks, runtime.device),
        evaluator=Evaluator(model, config.device.compile),
    )
    if updates_alone(config, runtime) and not (plan.teacher and plan.teacher.custom):
        state.graphs = UpdateGraphs(state.optimizer, config.device.cuda_graph)
    return state


def updates_alone(config: TrainConfig, runtime: Runtime) -> bool:
    """Whether a GPU can make a whole update without the CPU: a scaler, other ranks, a second batch, networks of
    one's own and a weight decay that changes may need it.
    """
    return (
        runtime.device.type == "cuda"
        and runtime.ranks.size == 1
        and runtime.autocast is not torch.float16
        and isinstance(config.model, NetworkConfig)
        and config.optim.accumulate == 1
        and config.optim.weight_decay_final == 1  # a graph knows one value
        and config.device.compile is None  # which records graphs of its own with reduce-overhead
    )


def check_colour(config: TrainConfig, dataset: Dataset) -> None:
    """Raises ConfigError for an augmentation of colours where images are not uint8 with three channels."""
    if dataset.preprocessing.is_rgb:
        return
    channels, policy, kind = dataset.preprocessing.channels, config.augment, dataset.train.dtype
    for name in ("brightness", "contrast", "saturation", "operations"):
        if (value := getattr(policy, name)) not in (0, "none"):
            raise ConfigError(
                f"augment.{name}={value} is for uint8 images with three channels, and these are "
                f"{str(kind).removeprefix('torch.')} with {channels}; leave it out"
            )


def for_evaluation(dataset: Dataset, config: TrainConfig) -> Dataset:
    """The data set with the resolution and crop of evaluation in its preprocessing."""
    side, ratio = config.eval.resolution or config.dataset.resolution, config.dataset.crop_ratio
    return replace(dataset, preprocessing=replace(dataset.preprocessing, resolution=side, crop_ratio=ratio))
