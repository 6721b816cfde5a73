"""How long a run may be and how it steps: fixed before the first update."""

from dataclasses import dataclass

from torch import Tensor

from mobilenet_train.config import TrainConfig
from mobilenet_train.errors import ConfigError
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.schedule import learning_rate, resolution, resolutions

UNLIMITED = 2**62  # updates, where only a budget ends the run


@dataclass(frozen=True)
class Plan:
    """A run has at most `updates` optimiser updates, `updates_per_epoch` to an epoch; the loss has `class_weights`.

    The network divides the side of an image by `divisor`.
    """

    config: TrainConfig
    runtime: Runtime
    batches_per_epoch: int
    updates_per_epoch: int
    updates: int
    divisor: int
    class_weights: Tensor | None = None

    def epochs(self, updates: int) -> int:
        """Epochs begun in so many updates, the last one perhaps cut short by max_steps or a budget."""
        return -(-updates // self.updates_per_epoch)

    def learning_rate(self, update: int, updates: int) -> float:
        """The scheduled rate of an update in a run of `updates`; the schedule begins at `schedule_from`."""
        optim, start = self.config.optim, self.config.schedule_from
        return learning_rate(update - start, updates - start, self.updates_per_epoch, optim.lr, optim.schedule)

    def resolution(self, update: int, updates: int) -> int:
        """The pixels that the network sees in an update of a run of `updates`."""
        config, start = self.config, self.config.schedule_from
        full = config.dataset.resolution
        return resolution(update - start, updates - start, full, self.divisor, config.progressive)

    @property
    def resolutions(self) -> list[int]:
        """All that `resolution` gives, growing."""
        return resolutions(self.config.dataset.resolution, self.divisor, self.config.progressive)


def make_plan(
    config: TrainConfig, runtime: Runtime, training_images: int, divisor: int, class_weights: Tensor | None = None
) -> Plan:
    """Counts batches and updates; the network divides an image's side by `divisor`.

    Raises ConfigError if an epoch would have no batch.
    """
    batches = training_images // config.batch_size
    if batches == 0:
        raise ConfigError(f"batch_size={config.batch_size} is larger than the training set of {training_images} images")
    updates_per_epoch = -(-batches // config.optim.accumulate)
    limits = [config.epochs and config.epochs * updates_per_epoch, config.max_steps]
    updates = min((limit for limit in limits if limit is not None), default=UNLIMITED)
    return Plan(config, runtime, batches, updates_per_epoch, updates, divisor, class_weights)
