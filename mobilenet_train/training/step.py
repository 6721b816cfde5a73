"""One optimiser update, from batches to new weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenet_train.data.batches import Batch
from mobilenet_train.distributed import exchange, share_update
from mobilenet_train.seeding import STEP, key
from mobilenet_train.training.optimizer import penalised_weights
from mobilenet_train.training.schedule import Plan
from mobilenet_train.training.state import TrainState
from mobilenet_train.training.teacher import distilled

CUDA_GRAPHS = ("reduce-overhead", "max-autotune")  # the values of device.compile that use them


def train_update(state: TrainState, batches: Sequence[Batch], plan: Plan) -> None:
    """Moves the weights once, by the mean gradient over all images of `batches`. Never waits for the device.

    With several ranks, `batches` are this one's rows of the global batches.
    """
    config, ranks = plan.config, plan.runtime.ranks
    for group in state.optimizer.param_groups:
        rate_share = group.get("rate_share", 1.0) if state.epoch >= group.get("frozen_epochs", 0) else 0.0
        group["lr"] = learning_rate_of(state, plan, state.step) * rate_share
        if config.optim.weight_decay_final < 1 and group["weight_decay"] > 0:
            group["weight_decay"] = plan.weight_decay(state.step, state.updates)
    seed_dropout(state, config.seed, 0)
    if state.graphs:
        measured = state.graphs.run(lambda batch: move_weights(state, [batch], plan), *batches)
    else:
        measured = move_weights(state, batches, plan)
    share = len(batches[-1][1]) / config.batch_size
    for loss, right in share_update(ranks, measured, state.model, share).view(-1, 2):
        record(state, config.batch_size, loss, right)
    state.step += 1
    state.batch += len(batches)
    if state.ema:
        state.ema.update(state.step)


def move_weights(state: TrainState, batches: Sequence[Batch], plan: Plan) -> Tensor:
    """The device's part of an update: gradients, then the optimiser. Returns what `measure` says of each batch.

    Dropout has been seeded for the first of `batches`.
    """
    config, runtime, ranks = plan.config, plan.runtime, plan.runtime.ranks
    network = state.replica or state.model
    own_gradients = len(batches) > 1 and config.device.compile in CUDA_GRAPHS
    if own_gradients:
        make_gradients(state.model)
    measured = []
    for number, (images, labels) in enumerate(batches):
        if number > 0:
            seed_dropout(state, config.seed, number)
        share = len(labels) / config.batch_size  # of the global batch
        with exchange(network, now=number == len(batches) - 1):
            with runtime.casting():
                logits = network(images)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            loss = training_loss(logits, labels, config.label_smoothing, plan.class_weights)
            if plan.teacher is not None:
                loss = distilled(loss, logits, plan.teacher.logits(images, runtime), config.distill)
            weight = share * ranks.size / len(batches)  # the exchange takes the mean over ranks
            state.scaler.scale(weight * (loss + l1_penalty(state.model, config.optim.l1))).backward()
        measured.append(measure(logits.detach(), loss.detach(), labels, share, runtime.sum_dtype))
    if config.optim.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=not own_gradients)
    return torch.cat(measured)


def seed_dropout(state: TrainState, seed: int, number: int) -> None:
    """For batch `number` of the next update."""
    torch.manual_seed(key(seed, STEP, state.step, number))


def make_gradients(model: nn.Module) -> None:
    """Gives the parameters gradients to add to. Those that a CUDA graph makes are overwritten when it runs again."""
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def training_loss(logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy; with class weights the mean of the weighted ones (not divided by the batch's weights)."""
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing)
    return F.cross_entropy(logits, labels, weights, label_smoothing=smoothing, reduction="sum") / len(labels)


def learning_rate_of(state: TrainState, plan: Plan, update: int) -> float:
    """The learning rate of an update: scheduled, and lowered by each recovery so far."""
    return plan.learning_rate(update, state.updates) * plan.config.recover.factor**state.recoveries


def l1_penalty(model: nn.Module, strength: float) -> Tensor | float:
    """strength x the sum of absolute weights of convolutions and fully connected layers."""
    if strength == 0:
        return 0.0
    return strength * torch.stack([weight.abs().sum() for weight in penalised_weights(model)]).sum()


def measure(logits: Tensor, loss: Tensor, labels: Tensor, share: float, dtype: torch.dtype) -> Tensor:
    """`dtype` (2,): this rank's part of the global batch's mean loss, its `share` of it, and how many are right.

    A mixed image counts as right where the prediction is the larger share's label.
    """
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    right = (logits.argmax(1) == classes).sum()
    return torch.stack([loss.to(dtype) * share, right.to(dtype)])


def record(state: TrainState, images: int, loss: Tensor, right: Tensor) -> None:
    """Adds a global batch of `images` to the epoch's sums and remembers the first loss that was not finite, all on
    the device.
    """
    state.sums.totals += torch.stack([loss * images, right])
    state.sums.last_batch = torch.stack([loss, right * (100 / images)])
    state.sums.seen += images
    first_bad = ~loss.isfinite() & (state.first_bad_step < 0)
    state.first_bad_step = torch.where(first_bad, state.step, state.first_bad_step)
