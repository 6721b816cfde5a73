"""How long a run may be, and its learning rate and resolution as pure functions of the update: nothing to resume."""

import math
from dataclasses import dataclass

from torch import Tensor

from mobilenet_train.config.schema import ProgressiveConfig, ScheduleConfig, TrainConfig
from mobilenet_train.errors import ConfigError
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.teacher import Teacher


def learning_rate(update: int, total: int, updates_per_epoch: float, peak: float, schedule: ScheduleConfig) -> float:
    """The learning rate of update number `update` (from 0) of `total`: linear warm-up to `peak`, then `schedule.decay`.

    Update 0 already moves: the warm-up gives peak / warm-up updates there. Cosine and linear reach
    `schedule.final` x peak just after the last update.
    """
    warmup = round(schedule.warmup * total)
    if update < warmup:
        return peak * (update + 1) / warmup
    done = (update - warmup) / max(1, total - warmup)  # 0..1 of the time after warm-up
    if schedule.decay == "linear":
        return peak * (schedule.final + (1 - schedule.final) * (1 - done))
    if schedule.decay == "cosine":
        return peak * (schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * done)) / 2)
    if schedule.decay == "constant":
        return peak
    periods = (update - warmup) / updates_per_epoch / schedule.every_epochs
    if schedule.decay == "step":
        periods = math.floor(periods)
    return peak * schedule.factor**periods


def resolution(update: int, total: int, full: int, divisor: int, progressive: ProgressiveConfig) -> int:
    """Pixels that the network sees in update number `update` of `total`: from `progressive.start` to `full`.

    Grows in steps of `divisor`, by which the network divides the side of an image, so that no map loses a part.
    """
    sides, reached = resolutions(full, divisor, progressive), progressive.full_from * total
    if update >= reached:
        return full
    return sides[int((full - sides[0]) * update / reached / divisor)]


def resolutions(full: int, divisor: int, progressive: ProgressiveConfig) -> list[int]:
    """All that `resolution` returns, from small to large."""
    return [full] if progressive.start is None else [*range(progressive.start, full, divisor), full]


UNLIMITED = 2**62  # updates, where only a budget ends the run


@dataclass(frozen=True)
class Plan:
    """A run has at most `updates` optimiser updates, `updates_per_epoch` to an epoch; the loss has `class_weights`.

    The network divides the side of an image by `divisor`.
    """

    config: TrainConfig
    runtime: Runtime
    updates_per_epoch: int
    updates: int
    divisor: int
    class_weights: Tensor | None = None
    schedule_from: int = 0  # the update at which the schedule starts, above 0 after resume_schedule=restart
    teacher: Teacher | None = None

    def epochs(self, updates: int) -> int:
        """Epochs started in so many updates, the last one perhaps cut short by max_updates or a budget."""
        return -(-updates // self.updates_per_epoch)

    @property
    def updates_per_evaluation(self) -> int:
        """Between two evaluations."""
        return self.config.eval.every_epochs * self.updates_per_epoch

    def evaluations(self, updates: int) -> int:
        """In a run of so many updates, the last one included."""
        return -(-updates // self.updates_per_evaluation)

    def learning_rate(self, update: int, updates: int) -> float:
        """The scheduled learning rate of an update in a run of `updates`; the schedule starts at `schedule_from`."""
        optim, start = self.config.optim, self.schedule_from
        return learning_rate(update - start, updates - start, self.updates_per_epoch, optim.lr, optim.schedule)

    def weight_decay(self, update: int, updates: int) -> float:
        """That of an update in a run of `updates`, for the weights that have any."""
        optim, start = self.config.optim, self.schedule_from
        return optim.weight_decay * (1 - (1 - optim.weight_decay_final) * (update - start) / max(1, updates - start))

    def resolution(self, update: int, updates: int) -> int:
        """The pixels that the network sees in an update of a run of `updates`."""
        config, start = self.config, self.schedule_from
        full = config.dataset.resolution
        return resolution(update - start, updates - start, full, self.divisor, config.progressive)

    @property
    def resolutions(self) -> list[int]:
        """All that `resolution` returns, from small to large."""
        return resolutions(self.config.dataset.resolution, self.divisor, self.config.progressive)


def make_plan(
    config: TrainConfig,
    runtime: Runtime,
    training_images: int,
    divisor: int,
    class_weights: Tensor | None = None,
    schedule_from: int = 0,
) -> Plan:
    """Counts batches and updates; the network divides an image's side by `divisor`.

    Raises ConfigError if an epoch would have no batch.
    """
    batches = training_images // config.batch_size
    if batches == 0:
        raise ConfigError(f"batch_size={config.batch_size} is larger than the training set of {training_images} images")
    updates_per_epoch = -(-batches // config.optim.accumulate)
    limits = [config.epochs and config.epochs * updates_per_epoch, config.max_updates]
    updates = min((limit for limit in limits if limit is not None), default=UNLIMITED)
    return Plan(config, runtime, updates_per_epoch, updates, divisor, class_weights, schedule_from)
