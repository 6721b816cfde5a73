"""The learning rate as a pure function of the update, the resolution as one of the epoch: nothing to resume."""

import math

from mobilenet_train.config import ProgressiveConfig, ScheduleConfig

RESOLUTION_STEP = 32  # pixels: the papers' networks halve the image five times


def learning_rate(update: int, total: int, updates_per_epoch: float, peak: float, schedule: ScheduleConfig) -> float:
    """The rate of update number `update` (from 0) of `total`: linear warm-up to `peak`, then decay.

    Update 0 already moves: the warm-up gives peak / warm-up updates there. Cosine and linear reach
    `schedule.final` x peak just after the last update.
    """
    warmup = round(schedule.warmup * total)
    if update < warmup:
        return peak * (update + 1) / warmup
    done = (update - warmup) / max(1, total - warmup)  # 0..1 of the decay
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


def resolution(epoch: int, epochs: int, full: int, progressive: ProgressiveConfig) -> int:
    """Pixels the network sees in `epoch` (from 0) of `epochs`: from `progressive.start` to `full`, in steps of 32."""
    if progressive.start is None or epoch >= progressive.full_from * epochs:
        return full
    grown = (full - progressive.start) * epoch / (progressive.full_from * epochs)
    return progressive.start + int(grown / RESOLUTION_STEP) * RESOLUTION_STEP
