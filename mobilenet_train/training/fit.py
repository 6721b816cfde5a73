"""The main path: epochs of updates, an evaluation after each or every few, a checkpoint after each."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from mobilenet_train import foreach
from mobilenet_train.data.batches import Batches, EvalBatches, TrainBatches
from mobilenet_train.data.cache import StoppedError
from mobilenet_train.distributed import agreed, summed
from mobilenet_train.errors import RunError
from mobilenet_train.results import EpochResult, EpochStarted, Event, Progress, Score
from mobilenet_train.training.budget import Budget
from mobilenet_train.training.evaluation import Interrupted, evaluate
from mobilenet_train.training.schedule import Plan
from mobilenet_train.training.state import Best, TrainState, new_sums
from mobilenet_train.training.step import learning_rate_of, train_update


class NotFiniteError(RunError):
    """A loss or a weight became NaN or infinite."""


def fit(
    state: TrainState,
    batches: Batches,
    plan: Plan,
    save: Callable[[], None],
    stop: Callable[[], int] = lambda: 0,
    budget: Budget | None = None,
) -> Iterator[Event]:
    """Trains `state` to the end of `plan`, or of `budget`, yielding what happens.

    Whoever reads the stream writes each event down before asking for the next; a checkpoint is saved only
    after that. So what a checkpoint knows is on disk, and what came after it is cut off at a resume.
    Raises Interrupted (state saved) once `stop()` gives the number of a signal, on this rank or another;
    NotFiniteError if the loss is not finite.
    """
    while state.batch > 0 or (state.step < state.updates and not early_stopped(state, plan)):
        if state.batch == 0:
            state.sums = new_sums(plan.runtime, started_at=time.time())
        yield EpochStarted(state.epoch, state.batch, state.sums.started_at)
        try:
            yield from train_epoch(state, batches.train, plan, save, stop, budget)
            result = finish_epoch(state, batches, plan, stop)
        except (Interrupted, StoppedError) as end:
            check_finite(state, plan)
            save()
            raise Interrupted(end.signal if isinstance(end, Interrupted) else stop()) from None
        yield result
        save()
        if budget:
            budget.epoch_ended(state, evaluated=result.test is not None)


def train_epoch(
    state: TrainState,
    data: TrainBatches,
    plan: Plan,
    save: Callable[[], None],
    stop: Callable[[], int],
    budget: Budget | None,
) -> Iterator[Event]:
    """The rest of the current epoch, from batch `state.batch` on.

    The clock stops only where the device has nothing left to do, so that no work goes uncounted.
    """
    config, runtime, saved_at = plan.config, plan.runtime, time.monotonic()
    stream = data.epoch(state.epoch, state.batch, lambda: plan.resolution(state.step, state.updates))
    clock = time.perf_counter()
    while state.step < state.updates and (group := list(islice(stream, config.optim.accumulate))):
        train_update(state, group, plan)
        logs = state.step % config.log_every == 0
        late = time.monotonic() - saved_at > 60 * config.checkpoint.every_minutes
        signal, saves = agreed(runtime.ranks, stop(), late)
        if logs or signal or saves:
            runtime.drain()
        state.sums.seconds += time.perf_counter() - clock
        if budget:
            budget.updated(state)
        if logs:
            yield progress(state, plan)
        if signal:
            raise Interrupted(signal)
        if saves:
            check_finite(state, plan)
            save()
            saved_at = time.monotonic()
        clock = time.perf_counter()
    runtime.drain()
    state.sums.seconds += time.perf_counter() - clock
    if budget:
        budget.epoch_trained()


def finish_epoch(
    state: TrainState,
    batches: Batches,
    plan: Plan,
    stop: Callable[[], int],
) -> EpochResult:
    """Evaluates if it is time, and moves the state to the start of the next epoch. Raises Interrupted as `fit` does."""
    check_finite(state, plan)
    trained_at, clock = time.time(), time.perf_counter()
    last = state.step >= state.updates
    due = last or (state.epoch + 1) % plan.config.eval.every_epochs == 0
    scores = all_scores(state, batches, plan, stop) if due else dict.fromkeys(("test", "val", "ema_test"))
    last_loss, last_top1 = state.sums.last_batch.tolist()
    result = EpochResult(
        epoch=state.epoch,
        step=state.step,
        started_at=state.sums.started_at,
        trained_at=trained_at,
        finished_at=time.time(),
        last_batch_loss=last_loss,
        last_batch_top1=last_top1,
        train=state.sums.score(),
        **scores,
        learning_rate=learning_rate_of(state, plan, state.step - 1),
        images_per_second=state.sums.images_per_second,
        seconds=state.sums.seconds,
        evaluation_seconds=time.perf_counter() - clock,
    )
    chosen = result.val or result.test
    if chosen and (state.best is None or chosen.top1 > state.best.top1):
        state.best = Best(state.epoch, chosen.top1)
    state.history.append(result)
    state.epoch, state.batch = state.epoch + 1, 0
    return result


def all_scores(state: TrainState, batches: Batches, plan: Plan, stop: Callable[[], int]) -> dict[str, Score | None]:
    """The scores of an EpochResult; the state keeps what was predicted. Raises Interrupted as `fit` does."""
    predicted: list[Tensor] = []
    score = partial(evaluate, runtime=plan.runtime, stop=stop, evaluator=state.evaluator)
    scores = {
        "test": score(state.model, batches.test, show=lambda x: predicted.append(x.argmax(1))),
        "val": score(state.model, batches.val) if batches.val else None,
        "ema_test": score(state.ema.model, batches.test) if state.ema else None,
    }
    state.test_predictions = gather_predictions(batches.test, predicted)
    return scores


def gather_predictions(batches: EvalBatches, predicted: list[Tensor]) -> Tensor:
    """The class of every image, int32 (N,), on every rank, from those of this rank's images in each batch."""
    classes = torch.zeros(len(batches.split), dtype=torch.int32)
    numbers = torch.arange(len(classes))
    shares = [numbers[share.start : share.stop] for share in batches.shares]
    classes[torch.cat(shares)] = torch.cat(predicted).int().cpu()
    return summed(batches.ranks, classes)


def progress(state: TrainState, plan: Plan) -> Progress:
    """The epoch so far; the one place inside an epoch that waits for the device."""
    check_finite(state, plan)
    return Progress(
        epoch=state.epoch,
        batch=state.batch,
        step=state.step,
        updates=state.updates,
        batch_loss=state.sums.last_batch[0].item(),
        train=state.sums.score(),
        learning_rate=learning_rate_of(state, plan, state.step - 1),
        images_per_second=state.sums.images_per_second,
    )


def check_finite(state: TrainState, plan: Plan) -> None:
    """Raises NotFiniteError if any loss so far, or any weight now, is NaN or infinite. Runs before every save."""
    bad = int(state.first_bad_step)
    if bad < 0 and not torch.stack(foreach.norm(list(state.model.parameters()))).isfinite().all():
        bad = max(0, state.step - 1)
    if bad >= 0:
        raise NotFiniteError(
            f"the loss or the weights were not finite at update {bad} (epoch {state.epoch}), with the learning rate "
            f"{learning_rate_of(state, plan, bad):.4g}: "
            "try a lower optim.lr, a longer optim.schedule.warmup or optim.clip_norm=1"
        )


def early_stopped(state: TrainState, plan: Plan) -> bool:
    """True once `early_stop.patience` epochs have passed without a better hold-out top-1, the last one evaluated."""
    patience = plan.config.early_stop.patience
    if patience is None or state.best is None or state.history[-1].test is None:
        return False
    return state.epoch - 1 - state.best.epoch >= patience
