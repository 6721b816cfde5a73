"""One optimiser update, from batches to new weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenet_train.seeding import STEP, key
from mobilenet_train.training.optimizer import penalised_weights
from mobilenet_train.training.plan import Plan
from mobilenet_train.training.state import TrainState


def train_update(state: TrainState, batches: Sequence[tuple[Tensor, Tensor]], plan: Plan) -> None:
    """Moves the weights once, by the mean gradient over all images of `batches`. Never waits for the device."""
    config, runtime = plan.config, plan.runtime
    for group in state.optimizer.param_groups:
        group["lr"] = rate_of(state, plan, state.step) * group.get("rate_share", 1.0)
    images_in_update = sum(len(labels) for _, labels in batches)
    for number, (images, labels) in enumerate(batches):
        torch.manual_seed(key(config.seed, STEP, state.step, number))  # dropout
        with torch.autocast(runtime.device.type, runtime.autocast, enabled=runtime.autocast is not None):
            logits = state.model(images).float()
        loss = F.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
        share = len(labels) / images_in_update
        state.scaler.scale(share * (loss + l1_penalty(state.model, config.optim.l1))).backward()
        record(state, logits.detach(), loss.detach(), labels)
    if config.optim.clip_norm is not None:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.model.parameters(), config.optim.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    state.batch += len(batches)
    if state.ema:
        state.ema.update(state.model, state.step)


def rate_of(state: TrainState, plan: Plan, update: int) -> float:
    """The learning rate of an update: scheduled, and lowered by each recovery so far."""
    return plan.learning_rate(update, state.updates) * plan.config.recover.factor**state.recoveries


def l1_penalty(model: nn.Module, strength: float) -> Tensor | float:
    """strength x the sum of absolute weights of convolutions and fully connected layers."""
    if strength == 0:
        return 0.0
    return strength * torch.stack([weight.abs().sum() for weight in penalised_weights(model)]).sum()


def record(state: TrainState, logits: Tensor, loss: Tensor, labels: Tensor) -> None:
    """Adds a batch to the epoch's sums and remembers the first loss that was not finite, all on the device.

    A mixed image counts as right where its larger part was named.
    """
    classes = labels if labels.ndim == 1 else labels.argmax(1)
    right = (logits.argmax(1) == classes).sum()
    state.sums.totals += torch.stack([loss.double() * len(labels), right.double()])
    state.sums.last_batch = torch.stack([loss.double(), right.double() * (100 / len(labels))])
    state.sums.seen += len(labels)
    first_bad = ~loss.isfinite() & (state.first_bad_step < 0)
    state.first_bad_step = torch.where(first_bad, state.step, state.first_bad_step)
