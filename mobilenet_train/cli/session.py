"""One training run from a checked configuration to a finished folder. Everything here needs torch."""

import platform
import resource
import statistics
import subprocess
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mobilenet_train import __version__, run_folder
from mobilenet_train.cli.resume import read_config
from mobilenet_train.config import NetworkConfig, TrainConfig, leaves
from mobilenet_train.data.batches import EvalBatches, TrainBatches
from mobilenet_train.data.images import Dataset
from mobilenet_train.data.sources import load
from mobilenet_train.errors import RunError, UserError
from mobilenet_train.factory import load_factory
from mobilenet_train.models import NETWORKS, Cost, count_costs
from mobilenet_train.runtime import Runtime, prepare
from mobilenet_train.seeding import WEIGHTS, key
from mobilenet_train.signals import StopSignals
from mobilenet_train.tracking import RunDescription, Trackers, read_summary, write_summary
from mobilenet_train.training import checkpoint
from mobilenet_train.training.ema import Ema
from mobilenet_train.training.evaluate import Interrupted, evaluate
from mobilenet_train.training.fit import Batches, fit
from mobilenet_train.training.optimizer import build_optimizer
from mobilenet_train.training.plan import Plan, make_plan
from mobilenet_train.training.state import TrainState, new_sums
from mobilenet_train.training.step import train_update

PREVIEW_IMAGES = 64


@dataclass(frozen=True)
class Prepared:
    """All that a run needs before its first step; nothing is on disk yet."""

    config: TrainConfig
    runtime: Runtime
    dataset: Dataset
    batches: Batches
    plan: Plan
    state: TrainState
    cost: Cost


def run(config: TrainConfig, overrides: list[str], folder: Path | None) -> int:
    """Trains (or goes on with the run in `folder`); returns the exit code. Raises UserError with a message."""
    console = Console()
    stop = StopSignals()
    if folder is not None and is_finished(folder, config):
        console.print(f"{folder} is finished already; nothing to do", soft_wrap=True)
        return 0
    held = run_folder.lock(folder) if folder is not None else None
    prepared = prepare_run(config)
    describe(prepared, console)
    if config.dry_run:
        estimate(prepared, console)
        return 0
    if folder is None:
        folder = run_folder.create(config, overrides)
        held = run_folder.lock(folder)
    else:
        restore(prepared, folder, console)
        run_folder.write_config(folder, config)
    assert held is not None
    with held:
        return train(prepared, folder, console, stop)


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """True if the run in `folder` has ended, and not been given more epochs or updates since."""
    if not (folder / "summary.json").exists() or read_summary(folder)["status"] != "finished":
        return False
    saved = read_config(folder)
    return (saved.epochs, saved.max_steps) == (config.epochs, config.max_steps)


def prepare_run(config: TrainConfig) -> Prepared:
    """Reads the data, builds the network and counts its cost. Raises UserError if anything does not fit."""
    runtime = prepare(config.device)
    dataset = load(config.dataset, config.seed)
    plan = make_plan(config, runtime, len(dataset.train))
    dataset = dataset.to(runtime.device)
    model = build_model(config, len(dataset.class_names))
    cost = count_costs(model, config.dataset.resolution)
    model = model.to(runtime.device, memory_format=runtime.memory_format)  # type: ignore[call-overload]
    state = TrainState(
        model=model,
        ema=Ema(model, config.ema.decay) if config.ema.decay else None,
        optimizer=build_optimizer(model, config.optim),
        scaler=torch.amp.GradScaler(runtime.device.type, enabled=runtime.autocast is torch.float16),
        sums=new_sums(runtime.device),
        first_bad_step=torch.tensor(-1, device=runtime.device),
    )
    return Prepared(config, runtime, dataset, make_batches(config, dataset, runtime), plan, state, cost)


def build_model(config: TrainConfig, num_classes: int) -> nn.Module:
    """The network of the configuration with weights drawn from the seed. Raises UserError if it can't be built."""
    torch.manual_seed(key(config.seed, WEIGHTS))
    sizes = {"num_classes": num_classes, "resolution": config.dataset.resolution}
    if isinstance(config.model, NetworkConfig):
        options = asdict(config.model)
        return NETWORKS[options.pop("name")](**sizes, **options)
    factory, args = config.model.factory, config.model.args  # type: ignore[attr-defined]
    model = load_factory("model.factory", factory)(**sizes, **args)
    if not isinstance(model, nn.Module):
        raise RunError(f"model.factory={factory} returned {type(model).__name__}; return a torch.nn.Module")
    return model


def make_batches(config: TrainConfig, dataset: Dataset, runtime: Runtime) -> Batches:
    pre, layout, size = dataset.preprocessing, runtime.memory_format, config.eval.batch_size
    return Batches(
        train=TrainBatches(dataset.train, pre, config.augment, config.batch_size, config.seed, layout),
        test=EvalBatches(dataset.test, pre, size, layout),
        val=EvalBatches(dataset.val, pre, size, layout) if dataset.val else None,
    )


def restore(prepared: Prepared, folder: Path, console: Console) -> None:
    """Loads the newest whole checkpoint of the folder into the state; a folder without one starts afresh.

    Raises RunError if the data are not those that the run was started with.
    """
    checkpoints = folder / "checkpoints"
    if not any((checkpoints / name).exists() for name in ("last.pt", "previous.pt")):
        console.print(f"{folder} has no checkpoint yet: starting at its beginning", soft_wrap=True)
        return
    saved, warning = checkpoint.load_latest(checkpoints)
    if warning:
        console.print(f"[yellow]warning:[/] {warning}", soft_wrap=True)
    if saved["fingerprint"] != prepared.dataset.fingerprint:
        raise RunError(f"{folder} was trained on other images than those that dataset={prepared.config.dataset.name} gives now")
    prepared.state.load_state_dict(saved)
    now = environment(prepared.runtime)
    changed = [f"{k} {saved['environment'][k]} -> {v}" for k, v in now.items() if saved["environment"][k] != v]
    if changed:
        console.print(f"[yellow]note:[/] {', '.join(changed)}: the end will not be equal bit for bit", soft_wrap=True)
    state = prepared.state
    console.print(f"going on in {folder} at epoch {state.epoch}, batch {state.batch} (update {state.step})", soft_wrap=True)


def train(prepared: Prepared, folder: Path, console: Console, stop: StopSignals) -> int:
    """Runs `fit`, hands its events to the trackers, and leaves a summary whatever happens."""
    state, plan, started = prepared.state, prepared.plan, time.monotonic()
    contents = checkpoint_contents(prepared)

    def save(state: TrainState) -> None:
        best = state.batch == 0 and state.best is not None and state.best.epoch == state.epoch - 1
        checkpoint.save(folder / "checkpoints", {**contents, **state.state_dict()}, best)

    console.print(f"run folder: {folder}", soft_wrap=True)
    try:
        summarise(prepared, folder, "running", started)
        trackers = Trackers(run_description(prepared, folder), state.history, state.step, console)
        if state.step == 0:
            trackers.record_images(preview(prepared))
        for event in fit(state, prepared.batches, plan, save, stop):
            trackers.record(event)
        trackers.close(finished=True)
    except Interrupted:
        trackers.close(finished=False)
        summarise(prepared, folder, "interrupted", started)
        console.print(f"stopped after update {state.step}, saved. Go on with:\n  mnet-train resume={folder}", soft_wrap=True)
        return stop.exit_code
    except torch.OutOfMemoryError as error:
        reason = "out of memory: lower batch_size (with optim.accumulate to keep the update's size) or dataset.resolution"
        summarise(prepared, folder, "failed", started, reason)
        raise RunError(reason) from error
    except UserError as error:
        summarise(prepared, folder, "failed", started, str(error))
        raise
    summarise(prepared, folder, "finished", started)
    last = state.history[-1]
    console.print(f"test top-1 {last.test.top1:.2f} % after epoch {last.epoch}; everything is in {folder}", soft_wrap=True)
    return 0


def checkpoint_contents(prepared: Prepared) -> dict[str, Any]:
    """What stays the same in every checkpoint of a run."""
    return {
        "config": asdict(prepared.config),
        "class_names": list(prepared.dataset.class_names),
        "preprocessing": asdict(prepared.dataset.preprocessing),
        "fingerprint": prepared.dataset.fingerprint,
        "environment": environment(prepared.runtime),
    }


def environment(runtime: Runtime) -> dict[str, str | int]:
    """What has to be the same for a resumed run to end bit for bit as an uninterrupted one."""
    capability = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": str(torch.__version__),
        "device": torch.cuda.get_device_name() if runtime.device.type == "cuda" else f"cpu {capability}",
        "threads": runtime.threads,
        "precision": runtime.precision,
    }


def run_description(prepared: Prepared, folder: Path) -> RunDescription:
    config, plan = prepared.config, prepared.plan
    from omegaconf import OmegaConf

    values = leaves(OmegaConf.create(asdict(config)))
    hparams = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in values}
    return RunDescription(
        folder=folder,
        title=f"{config.model.name} on {config.dataset.name}",
        epochs=plan.epochs,
        batches_per_epoch=plan.batches_per_epoch,
        updates_per_epoch=plan.updates_per_epoch,
        updates=plan.updates,
        log_every=config.log_every,
        hparams=hparams,
        val=prepared.dataset.val is not None,
        tensorboard=config.tensorboard,
    )


def preview(prepared: Prepared) -> Tensor:
    """The first augmented training images (N, 3, R, R), 0..1, as the network will see them."""
    train = prepared.batches.train
    images, _ = next(train.epoch(0))
    return train.prepare.undo(images[:PREVIEW_IMAGES]).cpu()


def summarise(prepared: Prepared, folder: Path, status: str, started: float, reason: str | None = None) -> None:
    """Writes summary.json."""
    state, runtime, cost = prepared.state, prepared.runtime, prepared.cost
    last = state.history[-1] if state.history else None
    cuda = runtime.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    chosen_on = "hold-out split" if prepared.dataset.val else "test set"
    seconds = sum(result.seconds for result in state.history)
    values: Mapping[str, Any] = {
        "status": status,
        "reason": reason,
        "epochs_done": state.epoch,
        "updates_done": state.step,
        "final": asdict(last) if last else None,
        "best": {**asdict(state.best), "chosen_on": chosen_on} if state.best else None,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "images_per_second": statistics.median(r.images_per_second for r in state.history) if last else None,
        "training_seconds": round(seconds, 3),
        "wall_seconds_this_process": round(time.monotonic() - started, 3),
        "peak_memory_bytes": peak,
        "memory_kind": "CUDA allocator" if cuda else "resident set",
        "environment": environment(runtime),
        "versions": {
            "mnet-train": __version__,
            "torch": str(torch.__version__),
            "torchvision": str(torchvision.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": platform.platform(),
        "git_commit": git_commit(),
        "data_fingerprint": prepared.dataset.fingerprint,
    }
    write_summary(folder, dict(values))


def git_commit() -> str | None:
    """The commit of the code that runs, where it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def describe(prepared: Prepared, console: Console) -> None:
    """Prints the plan of the run."""
    config, plan, data, runtime = prepared.config, prepared.plan, prepared.dataset, prepared.runtime
    optim, resolution = config.optim, config.dataset.resolution
    table = Table(title=f"{config.model.name} on {config.dataset.name}", show_header=False, title_justify="left")
    held = f", {len(data.val):,} held out" if data.val else ""
    table.add_row("images", f"{len(data.train):,} for training{held}, {len(data.test):,} for testing; {len(data.class_names)} classes")
    table.add_row("network", f"{prepared.cost.parameters:,} parameters, {prepared.cost.multiply_adds / 1e6:.2f} M multiply-adds at {resolution}x{resolution}")
    stride_plan = getattr(prepared.state.model, "stride_plan", None)
    if stride_plan is not None:
        table.add_row("stride plan", f"{stride_plan.dropped} strides dropped, final map {stride_plan.final_map}x{stride_plan.final_map}")
    table.add_row("training", f"{plan.epochs} epochs, {plan.updates:,} updates of {config.batch_size * optim.accumulate} images")
    table.add_row("optimiser", f"{optim.name}, rate {optim.lr:g}, {optim.schedule.decay} after {optim.schedule.warmup:.0%} warm-up")
    table.add_row("augmentation", config.augment.name)
    table.add_row("device", f"{runtime.device}, {runtime.threads} threads, {runtime.precision}")
    console.print(table)
    if stride_plan is not None and stride_plan.final_map <= 2:
        console.print(
            f"[yellow]warning:[/] the last stage sees a {stride_plan.final_map}x{stride_plan.final_map} map; a larger one is "
            "usually several points better: model.stride_plan=auto or a higher dataset.resolution",
            soft_wrap=True,
        )


def estimate(prepared: Prepared, console: Console) -> None:
    """Times a few real updates and one evaluation batch, and prints what the whole run would take."""
    state, plan, batches = prepared.state, prepared.plan, prepared.batches
    stream = batches.train.epoch(0)
    seconds = []
    for _ in range(min(4, plan.batches_per_epoch)):
        began = time.perf_counter()
        train_update(state, [next(stream)], plan)
        state.sums.score()
        seconds.append(time.perf_counter() - began)
    began = time.perf_counter()
    evaluate(state.model, [next(iter(batches.test))], plan.runtime, lambda: False)
    evaluation = (time.perf_counter() - began) * len(batches.test)
    batch = statistics.median(seconds[1:] or seconds)
    total = plan.updates * prepared.config.optim.accumulate * batch + plan.epochs * evaluation
    rate = prepared.config.batch_size / batch
    console.print(
        f"dry run: about {rate:.0f} images/s, {plan.batches_per_epoch * batch + evaluation:.0f} s an epoch, "
        f"{total / 60:.1f} minutes in all; nothing was written",
        soft_wrap=True,
    )
