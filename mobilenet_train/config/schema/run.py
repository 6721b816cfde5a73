"""What belongs to no group: how long, how, and what is written."""

import re
from dataclasses import field
from typing import Any

from mobilenet_train.config.fields import (
    IMAGES,
    MANY,
    NULL,
    YEAR,
    Section,
    alias,
    anything,
    consent,
    factory,
    flag,
    is_whole,
    number,
    one_of,
    text,
    whole,
)
from mobilenet_train.config.schema.augment import AugmentConfig
from mobilenet_train.config.schema.dataset import DatasetConfig
from mobilenet_train.config.schema.device import DeviceConfig
from mobilenet_train.config.schema.model import ModelConfig
from mobilenet_train.config.schema.optim import OptimConfig


class EmaConfig(Section):
    """Averaged weights."""

    decay: float = number(
        "of the averaged weights, evaluated beside the raw ones; 0 = off, 0.999 is usual",
        least=0,
        below=1,
        why="0 is off",
    )


class EarlyStopConfig(Section):
    """Ending a run that does not get better."""

    patience: int | None = whole(
        "stop after so many epochs without a better hold-out top-1 (needs dataset.val_fraction)",
        1,
        typed_most=MANY,
        null=NULL,
        said="a number of epochs",
    )


class EvalConfig(Section):
    """Evaluation while training."""

    batch_size: int = whole("images at once while evaluating; does not change the result", 1, typed_most=IMAGES)
    resolution: int | None = whole(
        "pixels the network sees while evaluating; null = dataset.resolution", 8, 4096, null=NULL, said="pixels,"
    )
    every_epochs: int = whole("evaluate after every so many epochs, and after the last one", 1, typed_most=MANY)


class ProgressiveConfig(Section):
    """Progressive resizing: smaller images at first."""

    start: int | None = whole(
        "resolution at first; grows in steps of the network's whole stride (32; 8 for CIFAR-10); null = always full",
        8,
        4096,
        null=NULL,
        said="pixels,",
    )
    full_from: float = number("share of all updates after which dataset.resolution is reached", above=0, most=1)


class DistillConfig(Section):
    """Knowledge distillation: a trained network's outputs are learned besides the labels."""

    teacher: str | None = text(
        "learn the outputs of this network too: a run folder, a checkpoint, or torchvision:NAME; null = labels alone"
    )
    weight: float = number(
        "share of the loss that is the distance to the teacher; the labels have the rest", above=0, most=1
    )
    temperature: float = number(
        "what both networks' outputs are divided by before they are compared", above=0, most=100
    )


class CheckpointConfig(Section):
    """When the state is saved."""

    every_minutes: float = number(
        "besides one at the end of every epoch", above=0, typed_most=YEAR / 60, said="minutes,", free=True
    )


class RecoverConfig(Section):
    """What happens to a loss that is not finite."""

    attempts: int = whole(
        "how often a loss that is not finite sends the run back to its last checkpoint; 0 = stop", 0, 100, free=True
    )
    factor: float = number("the learning rate is multiplied by this each time", above=0, below=1, free=True)


class TrainConfig(Section):
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    dataset: DatasetConfig = field(default_factory=DatasetConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    epochs: int | None = whole("passes over the training images", 1, typed_most=MANY, null="null (with a budget)")
    max_updates: int | None = whole(
        "stop after so many optimiser updates, if that comes first", 1, typed_most=10**12, null=NULL
    )
    max_steps: int | None = alias("max_updates")
    budget: str | None = text(
        "a time such as 90s, 10m or 1h30m: so many updates as end on time; epochs typed too is an upper limit",
        "a time such as 90s, 10m or 1h30m, at most a year",
        lambda budget: budget_seconds(budget) > 0,
        lambda budget: 0 < budget_seconds(budget) <= YEAR,
        null=NULL,
    )
    batch_size: int = whole(
        "images per batch; an update sees batch_size x optim.accumulate of them",
        2,
        typed_most=IMAGES,
        why="batch-norm needs two images",
    )
    seed: int = whole("same seed, same run: initial weights, order, augmentation, dropout", 0, 2**32 - 1)
    label_smoothing: float = number(
        "share of the target spread over all classes; test loss stays plain cross-entropy", least=0, below=1
    )
    balance: str = one_of(
        "for classes of unequal size: loss weighs them alike, sampling shows them equally often",
        *("none", "loss", "sampling"),
    )
    ema: EmaConfig = field(default_factory=EmaConfig)
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    progressive: ProgressiveConfig = field(default_factory=ProgressiveConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    recover: RecoverConfig = field(default_factory=RecoverConfig)
    log_every: int = whole(
        "updates between points of the training loss (bar, log line, TensorBoard)", 1, typed_most=10**9, free=True
    )
    tensorboard: bool = flag("write event files for TensorBoard into the run folder", free=True)
    tracker: str | None = factory(
        "package.module:function, called with a description of the run; what it returns is called with every event",
        null=NULL,
        free=True,
    )
    outputs: str = text("run folders are made in here", free=True)
    run_dir: str | None = text("exactly this folder instead; an unfinished run in it is continued", free=True)
    resume: str | None = text("a run folder to continue", free=True)
    resume_schedule: str = one_of(
        "with resume and more epochs: restart begins a new schedule where the run stopped",
        *("continue", "restart"),
        free=True,
    )
    resume_from: str = one_of(
        "with resume: best continues from checkpoints/best.pt, and what came after it is trained again",
        *("last", "best"),
        free=True,
    )
    trust_factory: bool = consent(
        "with resume or run_dir: call the functions that the run's own model.factory, dataset.factory and tracker "
        "name; with distill.teacher: the teacher's model.factory"
    )
    dry_run: bool = flag("print the plan, the cost and the estimated time, then stop", free=True)
    preview: bool = flag(
        "write a sheet of what the network would see to OUTPUTS/preview_DATASET_AUGMENT.jpg, then stop", free=True
    )
    sweep: str | None = text(
        "with -m: the sweep's folder in outputs; null = named by what is typed. Issued again, it is continued",
        "the name of a folder: letters, digits, and any of _ . + -",
        lambda name: bool(re.fullmatch(r"[\w+-][\w.+-]*", name)),
        null=NULL,
        free=True,
        sweep=True,
    )
    slots: Any = anything(
        "with -m: jobs at once; auto = one a GPU, or one a core on a CPU",
        "auto or a whole number from 1 to 1024",
        lambda v: v == "auto" or is_whole(v, 1, 1024),
        free=True,
        sweep=True,
    )
    on_failure: str = one_of(
        "with -m: stop ends the whole sweep when a job fails", "continue", "stop", free=True, sweep=True
    )

    @property
    def title(self) -> str:
        """Network and data set for people; one's own are known by the functions that make them."""
        network, data = (getattr(part, "factory", part.name) for part in (self.model, self.dataset))
        return f"{network} on {data}"


def budget_seconds(budget: str) -> float:
    """Seconds in "90s", "10m", "1h30m" or "1.5h"; 0 for what is not such a time."""
    match = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", budget)
    try:
        hours, minutes, seconds = (float(part or 0) for part in match.groups()) if match else (0.0, 0.0, 0.0)
    except ValueError:  # 1.2.3m
        return 0.0
    return 3600 * hours + 60 * minutes + seconds
