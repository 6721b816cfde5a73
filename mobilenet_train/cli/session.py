"""One training run from a checked configuration to a finished folder. Everything here needs torch."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mobilenet_train import run_folder
from mobilenet_train.cli import report
from mobilenet_train.cli.prepare import Prepared, prepare_run
from mobilenet_train.cli.resume import read_config
from mobilenet_train.config import TrainConfig
from mobilenet_train.errors import RunError, UserError
from mobilenet_train.signals import StopSignals
from mobilenet_train.tracking import Trackers, read_summary
from mobilenet_train.training import checkpoint
from mobilenet_train.training.evaluate import Interrupted
from mobilenet_train.training.fit import fit
from mobilenet_train.training.state import TrainState


def run(config: TrainConfig, overrides: list[str], folder: Path | None) -> int:
    """Trains (or goes on with the run in `folder`); returns the exit code. Raises UserError with a message."""
    console = Console()
    stop = StopSignals()
    if folder is not None and is_finished(folder, config):
        console.print(f"{folder} is finished already; nothing to do", soft_wrap=True)
        return 0
    held = run_folder.lock(folder) if folder is not None else None
    prepared = prepare_run(config)
    report.describe(prepared, console)
    if config.dry_run:
        report.estimate(prepared, console)
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
        raise RunError(
            f"{folder} was trained on other images than those that dataset={prepared.config.dataset.name} gives now"
        )
    prepared.state.load_state_dict(saved)
    now = report.environment(prepared.runtime)
    changed = [f"{k} {saved['environment'][k]} -> {v}" for k, v in now.items() if saved["environment"][k] != v]
    if changed:
        console.print(f"[yellow]note:[/] {', '.join(changed)}: the end will not be equal bit for bit", soft_wrap=True)
    state = prepared.state
    console.print(
        f"going on in {folder} at epoch {state.epoch}, batch {state.batch} (update {state.step})",
        soft_wrap=True,
    )


def train(prepared: Prepared, folder: Path, console: Console, stop: StopSignals) -> int:
    """Runs `fit`, hands its events to the trackers, and leaves a summary whatever happens."""
    started = time.monotonic()

    def summarise(status: str, reason: str | None = None) -> None:
        report.summarise(prepared, folder, status, time.monotonic() - started, reason)

    console.print(f"run folder: {folder}", soft_wrap=True)
    try:
        summarise("running")
        follow(prepared, folder, console, stop)
    except Interrupted:
        summarise("interrupted")
        step = prepared.state.step
        console.print(f"stopped after update {step}, saved. Go on with:\n  mnet-train resume={folder}", soft_wrap=True)
        return stop.exit_code
    except torch.OutOfMemoryError as error:
        reason = "out of memory: lower batch_size (optim.accumulate keeps the update's size) or dataset.resolution"
        summarise("failed", reason)
        raise RunError(reason) from error
    except UserError as error:
        summarise("failed", str(error))
        raise
    summarise("finished")
    last = prepared.state.history[-1]
    console.print(
        f"test top-1 {last.test.top1:.2f} % after epoch {last.epoch}; everything is in {folder}",
        soft_wrap=True,
    )
    return 0


def follow(prepared: Prepared, folder: Path, console: Console, stop: StopSignals) -> None:
    """Trains to the end, writing each event down before the next. Raises what `fit` and the trackers raise."""
    state = prepared.state
    contents = checkpoint_contents(prepared)

    def save(state: TrainState) -> None:
        best = state.batch == 0 and state.best is not None and state.best.epoch == state.epoch - 1
        checkpoint.save(folder / "checkpoints", {**contents, **state.state_dict()}, best)

    trackers = Trackers(report.run_description(prepared, folder), state.history, state.step, console)
    finished = False
    try:
        trackers.record_images(report.preview(prepared))
        for event in fit(state, prepared.batches, prepared.plan, save, stop):
            trackers.record(event)
        finished = True
    finally:
        trackers.close(finished)


def checkpoint_contents(prepared: Prepared) -> dict[str, Any]:
    """What stays the same in every checkpoint of a run."""
    return {
        "config": asdict(prepared.config),
        "class_names": list(prepared.dataset.class_names),
        "preprocessing": asdict(prepared.dataset.preprocessing),
        "fingerprint": prepared.dataset.fingerprint,
        "environment": report.environment(prepared.runtime),
    }
