"""The learning rate and the resolution as pure functions of the update: nothing to resume."""

import math

from mobilenet_train.config import ProgressiveConfig, ScheduleConfig


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


def resolution(update: int, total: int, full: int, divisor: int, progressive: ProgressiveConfig) -> int:
    """Pixels that the network sees in update number `update` of `total`: from `progressive.start` to `full`.

    Grows in steps of `divisor`, by which the network divides the side of an image, so that no map loses a part.
    """
    sides, reached = resolutions(full, divisor, progressive), progressive.full_from * total
    if update >= reached:
        return full
    return sides[int((full - sides[0]) * update / reached / divisor)]


def resolutions(full: int, divisor: int, progressive: ProgressiveConfig) -> list[int]:
    """All that `resolution` gives, growing."""
    return [full] if progressive.start is None else [*range(progressive.start, full, divisor), full]
