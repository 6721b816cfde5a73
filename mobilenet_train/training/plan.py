"""How long a run is and how it steps: fixed before the first update."""

from dataclasses import dataclass

from mobilenet_train.config import TrainConfig
from mobilenet_train.errors import ConfigError
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.schedule import learning_rate


@dataclass(frozen=True)
class Plan:
    """A run is `updates` optimiser updates, `updates_per_epoch` to an epoch."""

    config: TrainConfig
    runtime: Runtime
    batches_per_epoch: int
    updates_per_epoch: int
    updates: int

    @property
    def epochs(self) -> int:
        """Epochs begun, the last one perhaps cut short by max_steps."""
        return -(-self.updates // self.updates_per_epoch)

    def learning_rate(self, update: int) -> float:
        """The scheduled rate of an update; the schedule spans the updates from `schedule_from` to the end."""
        optim, start = self.config.optim, self.config.schedule_from
        return learning_rate(update - start, self.updates - start, self.updates_per_epoch, optim.lr, optim.schedule)


def make_plan(config: TrainConfig, runtime: Runtime, training_images: int) -> Plan:
    """Counts batches and updates. Raises ConfigError if an epoch would have no batch."""
    batches = training_images // config.batch_size
    if batches == 0:
        raise ConfigError(f"batch_size={config.batch_size} is larger than the training set of {training_images} images")
    updates_per_epoch = -(-batches // config.optim.accumulate)
    updates = config.epochs * updates_per_epoch
    return Plan(config, runtime, batches, updates_per_epoch, min(updates, config.max_steps or updates))
