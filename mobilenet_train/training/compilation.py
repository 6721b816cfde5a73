"""torch.compile's work, done before the clocks of a run start."""

from itertools import islice

import torch

from mobilenet_train.data.batches import Batch, Batches, TrainBatches
from mobilenet_train.training.evaluation import evaluate
from mobilenet_train.training.schedule import Plan
from mobilenet_train.training.state import TrainState, restored
from mobilenet_train.training.step import train_update

WARM_UP_UPDATES = 3  # CUDA graphs are recorded at the third
EVALUATIONS = 2  # shapes of batches: of the test set and of the hold-out split


def warm_up(state: TrainState, batches: Batches, plan: Plan) -> None:
    """A few updates at each resolution and a batch of each evaluation, which leave no trace in `state`."""
    shapes = len(plan.resolutions) + EVALUATIONS  # each is compiled by itself; above torch's limit it would give up
    limit = (
        "recompile_limit" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size_limit"
    )  # its old name
    setattr(torch._dynamo.config, limit, max(getattr(torch._dynamo.config, limit), shapes))
    with restored(state):
        for resolution in plan.resolutions:
            batch = first_batch(batches.train, state.epoch, resolution)
            for _ in range(WARM_UP_UPDATES):
                train_update(state, [batch] * plan.config.optim.accumulate, plan)
        for images in filter(None, (batches.test, batches.val)):
            for _ in range(WARM_UP_UPDATES):  # a batch made outside of `evaluate` would be compiled for by itself
                evaluate(state.model, islice(images, 1), plan.runtime, lambda: 0, evaluator=state.evaluator)


def first_batch(train: TrainBatches, epoch: int, resolution: int) -> Batch:
    """Of an epoch, at a resolution."""
    return next(train.epoch(epoch, resolution=lambda: resolution))
