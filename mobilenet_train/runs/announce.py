"""What a run announces: the plan at its start, the estimate of a dry run, what a budget pays for."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta

from rich.console import Console
from rich.table import Table

from mobilenet_train.config.schema import TrainConfig, budget_seconds
from mobilenet_train.console import add_rows, say, title_of
from mobilenet_train.data.images import Dataset
from mobilenet_train.kernels import bindings as kernels
from mobilenet_train.models.strides import PUBLISHED_STRIDE, StridePlan
from mobilenet_train.runs.build import RunParts
from mobilenet_train.training.budget import CLOSING_SECONDS, affordable_updates, measure_pace
from mobilenet_train.training.schedule import UNLIMITED

CLASSES_LISTED = 24  # in the table at the start of a run


def describe(parts: RunParts, console: Console) -> None:
    """Prints the plan of the run, and a warning for each resolution that wastes time or accuracy."""
    config, data = parts.config, parts.dataset
    table = Table(
        title=title_of(f"{config.model.name} on {config.dataset.name}"), show_header=False, title_justify="left"
    )
    held = f", {len(data.val):,} held out" if data.val else ""
    counts = f"{len(data.train):,} for training{held}, {len(data.test):,} for testing"
    images = [("images", f"{counts}; {len(data.class_names)} classes"), ("per class", class_counts(data))]
    add_rows(table, [*images, *_network_rows(parts), *_training_rows(parts)])
    with suppress(OSError, SystemExit):
        console.print(table)
    for warning in _warnings(parts):
        say(console, warning, kind="warning")


def _network_rows(parts: RunParts) -> Iterator[tuple[str, str]]:
    cost, side = parts.cost, parts.config.dataset.resolution
    madds = f"{cost.multiply_adds / 1e6:.2f} M multiply-adds at {side}x{side}"
    yield "network", f"{cost.parameters:,} parameters, {madds}"
    if parts.origin is not None:
        yield "start", parts.origin
    strides = stride_plan(parts)
    if strides is not None:
        yield "stride plan", f"{strides.dropped} strides dropped, final map {strides.final_map}x{strides.final_map}"


def _training_rows(parts: RunParts) -> Iterator[tuple[str, str]]:
    config, plan, runtime, optim = parts.config, parts.plan, parts.runtime, parts.config.optim
    length = f"{plan.epochs(plan.updates)} epochs, {plan.updates:,} updates" if plan.updates < UNLIMITED else "updates"
    limit = f"{config.budget} or " if config.budget else ""
    yield "training", f"{limit}{length} of {images_per_update(config)} images"
    if plan.teacher is not None:
        learned = f"{config.distill.weight:.0%} of the loss, temperature {config.distill.temperature:g}"
        yield "teacher", f"{plan.teacher.about}; {learned}"
    if config.progressive.start is not None:
        sides = " -> ".join(f"{side}x{side}" for side in plan.resolutions)
        yield "resolution", f"{sides}, the last from {config.progressive.full_from:.0%} on"
    schedule = f"{optim.schedule.decay} after {optim.schedule.warmup:.0%} warm-up"
    yield "optimiser", f"{optim.name}, learning rate {optim.lr:g}, {schedule}"
    yield "augmentation", config.augment.name
    ranks = f"{runtime.ranks.size} ranks, each with " if runtime.ranks.size > 1 else ""
    slower = ", no compiled kernels" if runtime.device.type == "cpu" and kernels.library() is None else ""
    yield "device", f"{ranks}{runtime.device}, {runtime.threads} threads, {runtime.precision}{slower}"


def _warnings(parts: RunParts) -> Iterator[str]:
    strides, resolution = stride_plan(parts), parts.config.dataset.resolution
    if strides is None:
        return
    if strides.dropped == 0 and resolution % PUBLISHED_STRIDE != 0:
        nearest = PUBLISHED_STRIDE * max(1, round(resolution / PUBLISHED_STRIDE))
        yield (
            f"dataset.resolution={resolution} is not a multiple of {PUBLISHED_STRIDE}, by which the network divides "
            f"it: {nearest} makes better use of the same time (the papers use 224, 192, 160, 128)"
        )
    if strides.final_map <= 2:
        yield (
            f"the last stage sees a {strides.final_map}x{strides.final_map} map; a larger one is usually several "
            "points better: model.stride_plan=auto or a higher dataset.resolution"
        )


def stride_plan(parts: RunParts) -> StridePlan | None:
    """None for a network of the user's own."""
    return getattr(parts.state.model, "stride_plan", None)


def class_counts(data: Dataset) -> str:
    """How many images each class has for training + testing; of many unequal classes only the ends."""
    train, test = (split.labels.bincount(minlength=len(data.class_names)).tolist() for split in (data.train, data.test))
    if len(set(train)) == len(set(test)) == 1:
        return f"{train[0]:,} for training, {test[0]:,} for testing"
    by_size = sorted(zip(train, test, data.class_names, strict=True), key=lambda entry: -entry[0])
    words = [f"{name} {training:,} + {testing:,}" for training, testing, name in by_size]
    if len(words) > CLASSES_LISTED:
        words = [*words[:3], f"... {len(words) - 6:,} more ...", *words[-3:]]
    return ", ".join(words)


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
        f"{total / 60:.1f} minutes for {updates:,} updates; no run folder was made",
    )


def announce_budget(parts: RunParts, console: Console) -> None:
    """Prints what a budget pays for."""
    config, plan, state = parts.config, parts.plan, parts.state
    assert config.budget is not None
    end = datetime.now() + timedelta(seconds=budget_seconds(config.budget) - state.elapsed)
    say(
        console,
        f"budget {config.budget}: {state.updates:,} updates "
        f"({state.updates / plan.updates_per_epoch:.1f} epochs) as planned now, ending about {end:%H:%M:%S}",
    )


def images_per_update(config: TrainConfig) -> int:
    """Of all ranks and accumulated batches."""
    return config.batch_size * config.optim.accumulate
