"""What a run says about itself: the plan at its start, the estimate of a dry run, summary.json at its end."""

import platform
import resource
import statistics
import subprocess
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mobilenet_train import __version__
from mobilenet_train.cli.messages import say
from mobilenet_train.cli.prepare import Prepared
from mobilenet_train.cli.resume import is_free, typed_keys
from mobilenet_train.config import TrainConfig, budget_seconds, leaves
from mobilenet_train.data.images import Dataset
from mobilenet_train.models import kernels
from mobilenet_train.models.strides import PUBLISHED_STRIDE
from mobilenet_train.run_folder import read_overrides
from mobilenet_train.runtime import Runtime
from mobilenet_train.tracking import RunDescription, write_summary
from mobilenet_train.training.budget import CLOSING_SECONDS, affordable_updates, measure_pace
from mobilenet_train.training.plan import UNLIMITED

PREVIEW_IMAGES = 64
TORCHVISION = version("torchvision")  # from its metadata: importing it takes seconds
CLASSES_LISTED = 24  # in the table at the start of a run


def describe(prepared: Prepared, console: Console) -> None:
    """Prints the plan of the run."""
    config, plan, data, runtime = prepared.config, prepared.plan, prepared.dataset, prepared.runtime
    optim, cost, resolution = config.optim, prepared.cost, config.dataset.resolution
    table = Table(title=f"{config.model.name} on {config.dataset.name}", show_header=False, title_justify="left")
    held = f", {len(data.val):,} held out" if data.val else ""
    table.add_row(
        "images",
        f"{len(data.train):,} for training{held}, {len(data.test):,} for testing; {len(data.class_names)} classes",
    )
    table.add_row("per class", class_counts(data))
    table.add_row(
        "network",
        f"{cost.parameters:,} parameters, {cost.multiply_adds / 1e6:.2f} M multiply-adds at {resolution}x{resolution}",
    )
    stride_plan = getattr(prepared.state.model, "stride_plan", None)
    if prepared.origin is not None:
        table.add_row("start", prepared.origin)
    if stride_plan is not None:
        table.add_row(
            "stride plan",
            f"{stride_plan.dropped} strides dropped, final map {stride_plan.final_map}x{stride_plan.final_map}",
        )
    length = f"{plan.epochs(plan.updates)} epochs, {plan.updates:,} updates" if plan.updates < UNLIMITED else "updates"
    limit = f"{config.budget} or " if config.budget else ""
    table.add_row("training", f"{limit}{length} of {images_per_update(config)} images")
    if config.progressive.start is not None:
        sides = " -> ".join(f"{side}x{side}" for side in plan.resolutions)
        table.add_row("resolution", f"{sides}, the last from {config.progressive.full_from:.0%} on")
    table.add_row(
        "optimiser",
        f"{optim.name}, rate {optim.lr:g}, {optim.schedule.decay} after {optim.schedule.warmup:.0%} warm-up",
    )
    table.add_row("augmentation", config.augment.name)
    ranks = f"{runtime.ranks.size} ranks, each with " if runtime.ranks.size > 1 else ""
    slower = ", no compiled kernels" if runtime.device.type == "cpu" and kernels.library() is None else ""
    table.add_row("device", f"{ranks}{runtime.device}, {runtime.threads} threads, {runtime.precision}{slower}")
    with suppress(OSError, SystemExit):
        console.print(table)
    if stride_plan is not None and stride_plan.dropped == 0 and resolution % PUBLISHED_STRIDE != 0:
        nearest = PUBLISHED_STRIDE * max(1, round(resolution / PUBLISHED_STRIDE))
        say(
            console,
            f"dataset.resolution={resolution} is no multiple of {PUBLISHED_STRIDE}, by which the network divides it: "
            f"{nearest} makes better use of the same time (the papers use 224, 192, 160, 128)",
            kind="warning",
        )
    if stride_plan is not None and stride_plan.final_map <= 2:
        say(
            console,
            f"the last stage sees a {stride_plan.final_map}x{stride_plan.final_map} map; "
            "a larger one is usually several points better: model.stride_plan=auto or a higher dataset.resolution",
            kind="warning",
        )


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


def estimate(prepared: Prepared, console: Console) -> None:
    """Times a few real updates and one evaluation batch, and prints what the whole run would take."""
    plan, batches, config = prepared.plan, prepared.batches, prepared.config
    pace = measure_pace(prepared.state, batches.train, batches.test, plan)
    updates = plan.updates
    if config.budget is not None:
        left = budget_seconds(config.budget) - CLOSING_SECONDS
        updates = affordable_updates(0, left, pace, plan)
    epochs = plan.epochs(updates)
    training = pace.seconds(plan, 0, updates)
    total = training + epochs * pace.epoch_end
    say(
        console,
        f"dry run: about {updates * images_per_update(config) / training:.0f} images/s, "
        f"{plan.updates_per_epoch * training / updates + pace.epoch_end:.0f} s an epoch, "
        f"{total / 60:.1f} minutes for {updates:,} updates; no run folder was made",
    )


def announce_budget(prepared: Prepared, console: Console) -> None:
    """Prints what a budget pays for."""
    config, plan, state = prepared.config, prepared.plan, prepared.state
    assert config.budget is not None
    end = datetime.now() + timedelta(seconds=budget_seconds(config.budget) - state.elapsed)
    say(
        console,
        f"budget {config.budget}: {state.updates:,} updates "
        f"({state.updates / plan.updates_per_epoch:.1f} epochs) as planned now, ending about {end:%H:%M:%S}",
    )


def images_per_update(config: TrainConfig) -> int:
    return config.batch_size * config.optim.accumulate


def run_description(prepared: Prepared, folder: Path) -> RunDescription:
    config, plan = prepared.config, prepared.plan
    values = [(key, value) for key, value in leaves(OmegaConf.create(asdict(config))) if not is_free(key)]
    hparams = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values}
    return RunDescription(
        folder=folder,
        title=f"{config.model.name} on {config.dataset.name}",
        epochs=plan.epochs(prepared.state.updates),
        updates_per_epoch=plan.updates_per_epoch,
        updates=prepared.state.updates,
        hparams=hparams,
        typed=frozenset(typed_keys(read_overrides(folder))),
        val=prepared.dataset.val is not None,
        tensorboard=config.tensorboard,
    )


def preview(prepared: Prepared) -> Tensor:
    """The first augmented training images (N, 3, R, R), 0..1, as the network will see them."""
    train = prepared.batches.train
    images, _ = next(train.epoch(0))
    return train.prepare.undo(images[:PREVIEW_IMAGES]).cpu()


def summarise(prepared: Prepared, folder: Path, status: str, wall_seconds: float, reason: str | None = None) -> None:
    """Writes summary.json."""
    state, runtime, cost = prepared.state, prepared.runtime, prepared.cost
    last = state.history[-1] if state.history else None
    cuda = runtime.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    chosen_on = "hold-out split" if prepared.dataset.val else "test set"
    seconds = sum(result.seconds for result in state.history)
    values: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "epochs_done": state.epoch,
        "updates_done": state.step,
        "final": asdict(last) if last else None,
        "best": {**asdict(state.best), "chosen_on": chosen_on} if state.best else None,
        "budget_seconds": prepared.config.budget and budget_seconds(prepared.config.budget),
        "elapsed_seconds": round(state.elapsed, 3) if prepared.config.budget else None,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "images_per_second": statistics.median(r.images_per_second for r in state.history) if last else None,
        "training_seconds": round(seconds, 3),
        "wall_seconds_this_process": round(wall_seconds, 3),
        "peak_memory_bytes": peak,
        "memory_kind": "CUDA allocator" if cuda else "resident set",
        "environment": environment(runtime),
        "versions": {
            "mnet-train": __version__,
            "torch": str(torch.__version__),
            "torchvision": TORCHVISION,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": platform.platform(),
        "git_commit": git_commit(),
        "data_fingerprint": prepared.dataset.fingerprint,
    }
    write_summary(folder, values)


def environment(runtime: Runtime) -> dict[str, str | int]:
    """What has to be the same for a resumed run to end bit for bit as an uninterrupted one."""
    compiled = ", compiled kernels" if kernels.library() else ""
    cpu = f"cpu {torch.backends.cpu.get_cpu_capability()}{compiled}"
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if runtime.device.type == "cuda" else cpu,
        "threads": runtime.threads,
        "ranks": runtime.ranks.size,
        "precision": runtime.precision,
    }


def git_commit() -> str | None:
    """The commit of the code that runs, where it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
