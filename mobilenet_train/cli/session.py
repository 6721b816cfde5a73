"""One training run from a checked configuration to a finished folder. Everything here needs torch."""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mobilenet_train import run_folder
from mobilenet_train.cli import preparation, report
from mobilenet_train.cli.messages import say
from mobilenet_train.cli.prepare import Prepared, prepare_run
from mobilenet_train.cli.preview import write_sheet
from mobilenet_train.cli.resume import read_config
from mobilenet_train.config import TrainConfig, budget_seconds
from mobilenet_train.data.cache import StoppedError
from mobilenet_train.data.stored import WORKER_KILLED
from mobilenet_train.distributed import contact, from_first, join
from mobilenet_train.errors import RunError, UserError
from mobilenet_train.signals import StopSignals
from mobilenet_train.tracking import Trackers, read_summary
from mobilenet_train.training import checkpoint
from mobilenet_train.training.budget import Budget, measure_pace
from mobilenet_train.training.evaluate import Interrupted
from mobilenet_train.training.fit import NotFiniteError, fit
from mobilenet_train.training.step import warm_up

CPU_OUT_OF_MEMORY = "can't allocate memory"  # what torch's CPU allocator says, in a plain RuntimeError


def run(config: TrainConfig, overrides: list[str], folder: Path | None) -> int:
    """Trains (or goes on with the run in `folder`); returns the exit code. Raises UserError with a message."""
    ranks = join()
    console = Console(quiet=not ranks.leads)
    stop = StopSignals(ranks)
    if folder is not None and from_first(ranks, partial(is_finished, folder, config)):
        say(console, f"{folder} is finished already; nothing to do")
        return 0
    lock: AbstractContextManager[Any] = nullcontext()
    if folder is not None and ranks.leads:
        lock = run_folder.lock(folder)
    starts = folder is None or not from_first(ranks, partial(checkpoint.written, folder / "checkpoints"))
    try:
        with memory_advice(), contact(ranks), preparation.shown(console, stop) as listener:
            prepared = prepare_run(config, listener, starts)
    except StoppedError:
        say(
            console,
            "stopped while the pictures were prepared; those that are in dataset.cache_dir need not be done again",
        )
        return stop.exit_code
    report.describe(prepared, console)
    if config.preview:
        say(console, f"what the network would see: {write_sheet(prepared)}")
    if config.dry_run:
        report.estimate(prepared, console)
    if config.preview or config.dry_run:
        return 0
    if folder is None:
        folder, lock = make_folder(prepared, overrides)
    else:
        prepared = restore(prepared, folder, console)
        if ranks.leads:
            run_folder.write_config(folder, prepared.config)
    with lock:
        return train(prepared, folder, console, stop)


def make_folder(prepared: Prepared, overrides: list[str]) -> tuple[Path, AbstractContextManager[Any]]:
    """A new run folder, chosen and held by rank 0; the others learn its name."""
    ranks = prepared.runtime.ranks
    lock: AbstractContextManager[Any] = nullcontext()
    if ranks.leads:
        folder, lock = run_folder.create(prepared.config, overrides)
    return from_first(ranks, lambda: folder), lock


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """True if the run in `folder` has ended, and not been given more epochs or updates since."""
    if not (folder / "summary.json").exists() or read_summary(folder)["status"] != "finished":
        return False
    saved = read_config(folder)
    return (saved.epochs, saved.max_steps) == (config.epochs, config.max_steps)


def restore(prepared: Prepared, folder: Path, console: Console) -> Prepared:
    """Loads the newest whole checkpoint of the folder into the state; a folder without one starts afresh.

    With resume_schedule=restart the schedule begins at the update where the run stopped.

    Raises RunError if the data are not those that the run was started with.
    """
    checkpoints = folder / "checkpoints"
    found = from_first(prepared.runtime.ranks, lambda: checkpoint.find_latest(checkpoints))
    if found is None:
        say(console, f"{folder} has no checkpoint yet: starting at its beginning")
        return prepared
    saved, warning = found
    if warning:
        say(console, warning, kind="warning")
    if saved["fingerprint"] != prepared.dataset.fingerprint:
        raise RunError(
            f"{folder} was trained on other images than those that dataset={prepared.config.dataset.name} gives now"
        )
    prepared.state.load_state_dict(saved)
    now = report.environment(prepared.runtime)
    before = {key: saved["environment"].get(key) for key in now}
    changed = [f"{key} {before[key]} -> {now[key]}" for key in now if before[key] != now[key]]
    if changed:
        say(console, f"{', '.join(changed)}: the end will not be equal bit for bit", kind="note")
    state = prepared.state
    say(console, f"going on in {folder} at epoch {state.epoch}, batch {state.batch} (update {state.step})")
    if prepared.config.resume_schedule == "continue":
        return prepared
    config = replace(prepared.config, schedule_from=state.step, resume_schedule="continue")
    return replace(prepared, plan=replace(prepared.plan, config=config))


def train(prepared: Prepared, folder: Path, console: Console, stop: StopSignals) -> int:
    """Runs `fit`, hands its events to the trackers, and leaves a summary whatever happens."""
    started, ranks = time.monotonic(), prepared.runtime.ranks

    def summarise(status: str, reason: str | None = None) -> None:
        if ranks.leads:
            report.summarise(prepared, folder, status, time.monotonic() - started, reason)

    say(console, f"run folder: {folder}")
    try:
        summarise("running")
        with memory_advice(), contact(ranks), worker_advice(folder):
            compile_ahead(prepared, console)
            budget = start_budget(prepared, console)
            follow(prepared, folder, console, stop, budget)
    except Interrupted:
        summarise("interrupted")
        step = prepared.state.step
        say(console, f"stopped after update {step}, saved. Go on with:\n  mnet-train resume={folder}")
        return stop.exit_code
    except NotFiniteError as error:
        reason = f"{error}. {last_good_checkpoint(folder)}"
        summarise("failed", reason)
        raise RunError(reason) from error
    except Exception as error:
        with suppress(UserError):  # a full disk takes no summary either
            summarise("failed", str(error) or type(error).__name__)
        raise
    summarise("finished")
    last = prepared.state.history[-1]
    say(console, f"test top-1 {last.test.top1:.2f} % after epoch {last.epoch}; everything is in {folder}")
    return 0


def compile_ahead(prepared: Prepared, console: Console) -> None:
    """Lets torch.compile work before the clocks start. Raises RunError if it can't."""
    mode = prepared.config.device.compile
    if mode is None:
        return
    from torch._dynamo.exc import TorchDynamoException  # a second to import

    say(console, f"compiling the network (device.compile={mode}); this takes a minute or two")
    try:
        warm_up(prepared.state, next(prepared.batches.train.epoch(0)), prepared.plan)
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"device.compile={mode} failed ({reason}); device.compile=null trains without it") from error


def start_budget(prepared: Prepared, console: Console) -> Budget | None:
    """Times the first steps and plans the run by them, if it has a budget; its time runs from here on."""
    config, state, batches = prepared.config, prepared.state, prepared.batches
    if config.budget is None:
        return None
    began = time.monotonic()
    pace = measure_pace(state, batches.train, batches.test, prepared.plan)
    state.elapsed += time.monotonic() - began
    budget = Budget(budget_seconds(config.budget), prepared.plan, state, pace)
    report.announce_budget(prepared, console)
    return budget


def follow(prepared: Prepared, folder: Path, console: Console, stop: StopSignals, budget: Budget | None) -> None:
    """Trains to the end; goes back to the last checkpoint where `recover` says so."""
    attempts = prepared.config.recover.attempts
    if attempts > 0 and prepared.state.step == 0:
        save(prepared, folder)  # so that there is always one to go back to
    while True:
        try:
            return follow_events(prepared, folder, console, stop, budget)
        except NotFiniteError as error:
            attempt = prepared.state.recoveries + 1
            if attempt > attempts:
                raise
            saved, _ = from_first(prepared.runtime.ranks, lambda: checkpoint.load_latest(folder / "checkpoints"))
            prepared.state.load_state_dict(saved)
            prepared.state.recoveries = attempt
            say(
                console,
                f"{error}. Going back to update {prepared.state.step}, with "
                f"{prepared.config.recover.factor:g} times the rate (attempt {attempt})",
                kind="warning",
            )


def follow_events(prepared: Prepared, folder: Path, console: Console, stop: StopSignals, budget: Budget | None) -> None:
    """Trains; rank 0 writes each event down before the next. Raises what `fit` and the trackers raise."""
    state = prepared.state
    events = fit(state, prepared.batches, prepared.plan, lambda: save(prepared, folder), stop, budget)
    if not prepared.runtime.ranks.leads:
        for _ in events:
            pass
        return
    trackers = Trackers(report.run_description(prepared, folder), state.history, state.step, console)
    finished = False
    try:
        if state.step == 0 and prepared.config.tensorboard:
            trackers.record_images(report.preview(prepared))
        for event in events:
            trackers.record(event)
        finished = True
    finally:
        trackers.close(finished)


def save(prepared: Prepared, folder: Path) -> None:
    """Writes the state to last.pt, and to best.pt if its last epoch is the best so far. Rank 0 does it for all."""
    if not prepared.runtime.ranks.leads:
        return
    state = prepared.state
    best = state.batch == 0 and state.best is not None and state.best.epoch == state.epoch - 1
    checkpoint.save(folder / "checkpoints", {**checkpoint_contents(prepared), **state.state_dict()}, best)


def last_good_checkpoint(folder: Path) -> str:
    """Says where the run can go on from after numbers went bad."""
    path = folder / "checkpoints/last.pt"
    if not path.exists():
        return "There is no checkpoint yet"
    step = checkpoint.load_latest(path.parent)[0]["progress"]["step"]
    command = f"mnet-train resume={folder} recover.attempts=1"
    return f"The last good checkpoint is {path} (update {step}); {command} goes on from it with a lower rate"


@contextmanager
def memory_advice() -> Iterator[None]:
    """Turns running out of memory, on a GPU or the host, into a RunError that says which knob to turn."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and CPU_OUT_OF_MEMORY not in str(error):
            raise
        raise RunError(
            "out of memory: lower batch_size (optim.accumulate keeps the update's size), eval.batch_size or "
            "dataset.resolution, or start more ranks, which share a batch"
        ) from error


@contextmanager
def worker_advice(folder: Path) -> Iterator[None]:
    """Turns the death of a process that decodes pictures into a RunError that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(WORKER_KILLED):
            raise
        raise RunError(
            f"a process that decodes pictures was killed ({str(error).splitlines()[0]}), often by the system for lack "
            "of memory: try fewer dataset.workers, a lower batch_size, or dataset.cache=disk, which needs none. Go on "
            f"with:\n  mnet-train resume={folder}"
        ) from error


def checkpoint_contents(prepared: Prepared) -> dict[str, Any]:
    """What stays the same in every checkpoint of a run."""
    return {
        "config": asdict(prepared.config),
        "class_names": list(prepared.dataset.class_names),
        "preprocessing": asdict(prepared.dataset.preprocessing),
        "fingerprint": prepared.dataset.fingerprint,
        "environment": report.environment(prepared.runtime),
    }
