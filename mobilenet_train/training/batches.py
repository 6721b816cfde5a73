"""The batches of a run: for training, for testing and of the hold-out."""

from dataclasses import dataclass

from mobilenet_train.config import TrainConfig
from mobilenet_train.data.batches import EvalBatches, TrainBatches
from mobilenet_train.data.images import Dataset
from mobilenet_train.runtime import Runtime


@dataclass(frozen=True)
class Batches:
    train: TrainBatches
    test: EvalBatches
    val: EvalBatches | None


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
            classes=len(dataset.class_names),
            resolution=config.dataset.resolution,
            ranks=ranks,
            balanced=config.balance == "sampling",
        ),
        test=EvalBatches(dataset.test, pre, size, layout, ranks),
        val=EvalBatches(dataset.val, pre, size, layout, ranks) if dataset.val else None,
    )
