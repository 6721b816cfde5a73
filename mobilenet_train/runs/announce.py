"""What a run announces: the plan at its start, the estimate of a dry run, what a budget pays for."""

import statistics
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from rich.console import Console
from rich.table import Table

from mobilenet_train.config.schema import TrainConfig, budget_seconds
from mobilenet_train.console import add_rows, counted, say, title_of
from mobilenet_train.data.images import Dataset
from mobilenet_train.kernels import bindings as kernels
from mobilenet_train.models.strides import PUBLISHED_STRIDE, StridePlan
from mobilenet_train.runs.build import RunParts
from mobilenet_train.training.budget import CLOSING_SECONDS, affordable_updates, measure_pace
from mobilenet_train.training.schedule import UNLIMITED

FINAL_MAP_KEYS = {"model.stride_plan", "dataset.resolution"}


def describe(parts: RunParts, console: Console, typed: Collection[str] = ()) -> None:
    """Prints the plan of the run, and a warning for each resolution that wastes time or accuracy.

    typed: the keys that the user set. A small final map that a recipe chose was measured to be good enough.
    """
    table = Table(title=title_of(parts.config.title), show_header=False, title_justify="left")
    add_rows(table, plan_rows(parts))
    with suppress(OSError, SystemExit):
        console.print(table)
    for warning in _warnings(parts, typed):
        say(console, warning, kind="warning")


def plan_rows(parts: RunParts) -> list[tuple[str, str]]:
    """What the run is going to do, in a few named lines."""
    data = parts.dataset
    held = f", {len(data.val):,} held out" if data.val else ""
    counts = f"{len(data.train):,} for training{held}, {len(data.test):,} for testing"
    images = [("images", f"{counts}; {len(data.class_names)} classes"), ("per class", class_counts(data))]
    return [*images, *_network_rows(parts), *_training_rows(parts)]


def _network_rows(parts: RunParts) -> Iterator[tuple[str, str]]:
    cost, side = parts.cost, parts.config.dataset.resolution
    madds = f"{cost.multiply_adds / 1e6:.2f} M multiply-adds at {side}x{side}"
    yield "network", f"{cost.parameters:,} parameters, {madds}"
    if parts.origin is not None:
        yield "start", parts.origin
    strides = stride_plan(parts)
    if strides is not None:
        final = f"final map {strides.final_map}x{strides.final_map}"
        yield "stride plan", f"{counted(strides.dropped, 'stride')} dropped, {final}"


def _training_rows(parts: RunParts) -> Iterator[tuple[str, str]]:
    config, plan, runtime, optim = parts.config, parts.plan, parts.runtime, parts.config.optim
    limited = plan.updates < UNLIMITED
    epochs, updates = counted(plan.epochs(plan.updates), "epoch"), counted(plan.updates, "update")
    length = f"{epochs}, {updates}" if limited else "updates"
    limit = f"{config.budget} {'or' if limited else 'in'} " if config.budget else ""
    yield "training", f"{limit}{length} of {images_per_update(config)} images"
    if plan.teacher is not None:
        learned = f"{config.distill.weight:.0%} of the loss, temperature {config.distill.temperature:g}"
        yield "teacher", f"{plan.teacher.about}; {learned}"
    if left_out := len(parts.dataset.train) % config.batch_size:
        yield "left out", f"{counted(left_out, 'image')} of each epoch, too few for another batch"
    if config.progressive.start is not None:
        sides = " -> ".join(f"{side}x{side}" for side in plan.resolutions)
        yield "resolution", f"{sides}, the last from {config.progressive.full_from:.0%} on"
    schedule = f"{optim.schedule.decay} after {optim.schedule.warmup:.0%} warm-up"
    yield "optimiser", f"{optim.name}, learning rate {optim.lr:g}, {schedule}"
    yield "augmentation", config.augment.name
    ranks = f"{runtime.ranks.size} ranks, each with " if runtime.ranks.size > 1 else ""
    slower = ", no compiled kernels" if runtime.device.type == "cpu" and kernels.library() is None else ""
    yield "device", f"{ranks}{runtime.device}, {counted(runtime.threads, 'thread')}, {runtime.precision}{slower}"


def _warnings(parts: RunParts, typed: Collection[str]) -> Iterator[str]:
    strides, resolution = stride_plan(parts), parts.config.dataset.resolution
    if strides is None:
        return
    if strides.dropped == 0 and resolution % PUBLISHED_STRIDE != 0:
        nearest = PUBLISHED_STRIDE * max(1, round(resolution / PUBLISHED_STRIDE))
        yield (
            f"dataset.resolution={resolution} is not a multiple of {PUBLISHED_STRIDE}, by which the network divides "
            f"it: {nearest} makes better use of the same time (the papers use 224, 192, 160, 128)"
        )
    if strides.final_map <= 2 and FINAL_MAP_KEYS.intersection(typed):
        yield (
            f"the last stage sees a {strides.final_map}x{strides.final_map} map; a larger one is usually several "
            "points better: model.stride_plan=auto or a higher dataset.resolution"
        )


def stride_plan(parts: RunParts) -> StridePlan | None:
    """None for a network of the user's own."""
    return getattr(parts.state.model, "stride_plan", None)


def class_counts(data: Dataset) -> str:
    """How many images a class has, or the fewest, the median and the most, and of which classes those are."""
    train, test = (
        _spread(split.labels.bincount(minlength=len(data.class_names)).tolist(), data.class_names)
        for split in (data.train, data.test)
    )
    return f"{train} for training, {test} for testing"


def _spread(counts: list[int], names: Sequence[str]) -> str:
    fewest, most = min(counts), max(counts)
    if fewest == most:
        return f"{most:,}"
    rarest, largest = names[counts.index(fewest)], names[counts.index(most)]
    return f'{fewest:,} ("{rarest}") to {most:,} ("{largest}"; median {statistics.median(counts):,.0f})'


def estimate(parts: RunParts, console: Console) -> None:
    """Times a few real updates and one evaluation batch, and prints what the whole run would take."""
    plan, batches, config = parts.plan, parts.batches, parts.config
    pace = measure_pace(parts.state, batches.train, batches.test, plan)
    updates = plan.updates
    if config.budget is not None:
        left = budget_seconds(config.budget) - CLOSING_SECONDS
        updates = affordable_updates(0, left, pace, plan)
    training = pace.seconds(plan, 0, updates)
    total = training + plan.evaluations(updates) * pace.epoch_end
    say(
        console,
        f"dry run: about {updates * images_per_update(config) / training:.0f} images/s, "
        f"{plan.updates_per_epoch * training / updates + pace.epoch_end / config.eval.every_epochs:.0f} s an epoch, "
        f"{total / 60:.1f} minutes for {counted(updates, 'update')}; no run folder was made",
    )


def announce_budget(parts: RunParts, console: Console) -> None:
    """Prints what a budget pays for."""
    config, plan, state = parts.config, parts.plan, parts.state
    assert config.budget is not None
    end = datetime.now() + timedelta(seconds=budget_seconds(config.budget) - state.elapsed)
    say(
        console,
        f"budget {config.budget}: {counted(state.updates, 'update')} "
        f"({state.updates / plan.updates_per_epoch:.1f} epochs) as planned now, ending about {end:%H:%M:%S}",
    )


def images_per_update(config: TrainConfig) -> int:
    """Of all ranks and accumulated batches."""
    return config.batch_size * config.optim.accumulate
