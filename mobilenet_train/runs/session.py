"""One training run from a checked configuration to a finished folder. Everything here needs torch."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from mobilenet_train import checkpoint
from mobilenet_train.config.checked import values_of
from mobilenet_train.config.overrides import typed_keys
from mobilenet_train.config.resume import Start
from mobilenet_train.config.saved import read_saved
from mobilenet_train.config.schema import TrainConfig, budget_seconds
from mobilenet_train.console import say
from mobilenet_train.data.cache import StoppedError
from mobilenet_train.distributed import contact, from_first, join
from mobilenet_train.errors import RunError, UserError
from mobilenet_train.runs import announce, data_progress, figures, summary
from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.advice import memory_advice, resume_command, worker_advice
from mobilenet_train.runs.build import RunParts, build_run
from mobilenet_train.runs.folder import read_summary
from mobilenet_train.runs.preview import write_sheet
from mobilenet_train.runs.restore import Recovery, check_results, read_checkpoint, restore
from mobilenet_train.signals import StopSignals
from mobilenet_train.tracking import Trackers
from mobilenet_train.tracking.callbacks import Callback, OwnTracker
from mobilenet_train.training.budget import Budget, measure_pace
from mobilenet_train.training.compilation import warm_up
from mobilenet_train.training.evaluation import Interrupted
from mobilenet_train.training.fit import NotFiniteError, fit


@dataclass(frozen=True)
class Outcome:
    """What a command came to: the run's folder, None where there is none, and 0 or 128 + the signal that stopped it."""

    folder: Path | None
    exit_code: int = 0


def run(start: Start, words: Sequence[str]) -> int:
    """Trains, or continues the run in `start.folder`; returns the exit code. Raises UserError with a message."""
    return run_until(start, words, StopSignals).exit_code


def run_until(
    start: Start, words: Sequence[str], signals: Callable[[], StopSignals], callbacks: Sequence[Callback] = ()
) -> Outcome:
    """The same, stopped by what `signals` makes; `callbacks` are called with every event on rank 0."""
    config, folder = start.config, start.folder
    ranks = join()
    console = Console(quiet=not ranks.leads)
    stop = signals()
    if folder is not None and from_first(ranks, partial(is_finished, folder, config)):
        say(console, f"{folder} is finished already; nothing to do")
        return Outcome(folder)
    with ExitStack() as held:
        if folder is not None and ranks.leads:
            held.enter_context(run_folder.lock(folder))
            if config.resume_from == "last":
                check_results(folder)
        starts = folder is None or not from_first(ranks, partial(checkpoint.written, folder / "checkpoints"))
        try:
            with memory_advice(), contact(ranks), data_progress.shown(console, lambda: stop() > 0) as listener:
                parts = build_run(config, listener, starts, start.saved.schedule_from)
        except StoppedError:
            say(console, "stopped while images were prepared; those in dataset.cache_dir are not prepared again")
            return Outcome(folder, stop.exit_code)
        announce.describe(parts, console, typed_keys(words))
        if config.preview:
            say(console, f"what the network would see: {write_sheet(parts)}")
        if config.dry_run:
            compile_ahead(parts, console)
            announce.estimate(parts, console)
        if config.preview or config.dry_run:
            return Outcome(folder)
        if folder is None:
            folder = make_folder(parts, words, held)
        else:
            parts = resume(parts, start, folder, console)
        return Outcome(folder, train(parts, folder, console, stop, callbacks))


def make_folder(parts: RunParts, words: Sequence[str], held: ExitStack) -> Path:
    """A new run folder, chosen by rank 0, which holds its lock until `held` ends; the others learn its name."""
    ranks = parts.runtime.ranks
    if ranks.leads:
        folder, lock = run_folder.create(parts.config, words)
        held.enter_context(lock)
    return from_first(ranks, lambda: folder)


def is_finished(folder: Path, config: TrainConfig) -> bool:
    """True if the run in `folder` has ended, and is not to be longer or to be trained again from its best epoch."""
    if (
        config.resume_from == "best"
        or not (folder / "summary.json").exists()
        or read_summary(folder)["status"] != "finished"
    ):
        return False
    saved = read_saved(folder).config
    return (saved.epochs, saved.max_updates) == (config.epochs, config.max_updates)


def resume(parts: RunParts, start: Start, folder: Path, console: Console) -> RunParts:
    """Loads the checkpoint to continue from, and puts on record what changes, before the first update.

    A folder in which nothing was saved yet starts at its beginning. Raises RunError as `restore` does.
    """
    config, ranks = start.config, parts.runtime.ranks
    saved = from_first(ranks, lambda: read_checkpoint(folder, config.resume_from, console))
    if saved is None:
        say(console, f"{folder} has no checkpoint yet: starting at its beginning")
    else:
        restore(parts, saved, start.saved, folder, console)
    schedule_from = start.saved.schedule_from if config.resume_schedule == "continue" else parts.state.step
    config = replace(config, resume_schedule="continue", resume_from="last")
    parts = replace(parts, plan=replace(parts.plan, config=config, schedule_from=schedule_from))
    if ranks.leads:  # the run is not finished any more
        summary.summarise(parts, folder, "running", wall_seconds=0.0)
        run_folder.write_config(folder, replace(start.saved, config=config, schedule_from=schedule_from))
    return parts


def train(
    parts: RunParts, folder: Path, console: Console, stop: StopSignals, callbacks: Sequence[Callback] = ()
) -> int:
    """Runs `fit`, hands its events to the trackers and `callbacks`, and leaves a summary whatever happens."""
    started, ranks = time.monotonic(), parts.runtime.ranks

    def summarise(status: str, reason: str | None = None) -> None:
        if ranks.leads:
            summary.summarise(parts, folder, status, time.monotonic() - started, reason)

    say(console, f"run folder: {folder}")
    try:
        summarise("running")
        with memory_advice(), contact(ranks), worker_advice(resume_command(parts.config, folder)):
            compile_ahead(parts, console)
            budget = start_budget(parts, console)
            follow(parts, folder, partial(follow_events, parts, folder, console, stop, budget, callbacks), console)
    except (Interrupted, StoppedError) as end:
        summarise("interrupted")
        step = parts.state.step
        say(console, f"stopped after update {step}, saved. Resume with:")
        say(console, f"  {resume_command(parts.config, folder)}")
        return 128 + (end.signal if isinstance(end, Interrupted) else stop())
    except Exception as error:
        with suppress(UserError):  # a full disk takes no summary either
            summarise("failed", str(error) or type(error).__name__)
        raise
    summarise("finished")
    last = parts.state.history[-1]
    assert last.test is not None, "the last epoch is evaluated"
    say(console, f"test top-1 {last.test.top1:.2f} % after epoch {last.epoch}; everything is in {folder}")
    return 0


def compile_ahead(parts: RunParts, console: Console) -> None:
    """Lets torch.compile work before the clocks start. Raises RunError if it fails."""
    mode = parts.config.device.compile
    if mode is None:
        return
    from torch._dynamo.exc import TorchDynamoException  # a second to import

    say(console, f"compiling the network (device.compile={mode}); this takes a minute or two")
    try:
        warm_up(parts.state, parts.batches, parts.plan)
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise RunError(f"device.compile={mode} failed ({reason}); device.compile=null trains without it") from error


def start_budget(parts: RunParts, console: Console) -> Budget | None:
    """Times the first steps and plans the run by them, if it has a budget; its time runs from here on."""
    config, state, batches = parts.config, parts.state, parts.batches
    if config.budget is None:
        return None
    began = time.monotonic()
    pace = measure_pace(state, batches.train, batches.test, parts.plan)
    state.elapsed += time.monotonic() - began
    budget = Budget(budget_seconds(config.budget), parts.plan, state, pace)
    announce.announce_budget(parts, console)
    return budget


def follow(parts: RunParts, folder: Path, follow_once: Callable[[], None], console: Console) -> None:
    """Trains to the end; where `recover` says so, goes back after numbers that were not finite."""
    attempts, recovery = parts.config.recover.attempts, Recovery(folder, resume_command(parts.config, folder))
    if attempts > 0 and parts.state.step == 0:
        save(parts, folder)  # so that there is always one to go back to
    while True:
        try:
            return follow_once()
        except NotFiniteError as error:
            attempt = parts.state.recoveries + 1
            if attempt > attempts:
                raise NotFiniteError(f"{error}. {recovery.advice()}") from error
            parts.state.load_state_dict(from_first(parts.runtime.ranks, recovery.choose))
            parts.state.recoveries = attempt
            say(
                console,
                f"{error}. Going back to update {parts.state.step}, with "
                f"{parts.config.recover.factor:g} times the learning rate (attempt {attempt})",
                kind="warning",
            )


def follow_events(
    parts: RunParts,
    folder: Path,
    console: Console,
    stop: StopSignals,
    budget: Budget | None,
    callbacks: Sequence[Callback],
) -> None:
    """Trains; rank 0 writes each event down before the next. Raises what `fit` and the trackers raise."""
    state = parts.state
    events = fit(state, parts.batches, parts.plan, lambda: save(parts, folder), stop, budget)
    if not parts.runtime.ranks.leads:
        for _ in events:
            pass
        return
    description, tracker = summary.run_description(parts, folder), parts.config.tracker
    own = [OwnTracker(tracker, description)] if tracker is not None else []
    trackers = Trackers(description, state.history, state.step, console, [*own, *callbacks])
    try:
        if state.step == 0 and parts.config.tensorboard:
            trackers.record_images(summary.preview(parts))
            trackers.record_graph(figures.network(parts))
        for event in events:
            trackers.record(event)
        if parts.config.tensorboard and budget is None and state.test_predictions is not None:  # seconds to draw
            trackers.record_figures(figures.last_figures(parts))
    except BaseException:
        with suppress(UserError):  # what came first is what the user must know
            trackers.close(finished=False)
        raise
    trackers.close(finished=True)


def save(parts: RunParts, folder: Path) -> None:
    """Writes the state to last.pt, and to best.pt if its last epoch is the best so far. Rank 0 does it for all."""
    if not parts.runtime.ranks.leads:
        return
    state = parts.state
    best = state.batch == 0 and state.best is not None and state.best.epoch == state.epoch - 1
    checkpoint.save(folder / "checkpoints", {**checkpoint_contents(parts), **state.state_dict()}, best)


def checkpoint_contents(parts: RunParts) -> dict[str, Any]:
    """What stays the same in every checkpoint of a run."""
    return {
        "config": values_of(parts.config),
        "class_names": list(parts.dataset.class_names),
        "preprocessing": asdict(parts.dataset.preprocessing),
        "fingerprint": parts.dataset.fingerprint,
        "environment": parts.environment,
        **({"teacher": parts.plan.teacher.digest} if parts.plan.teacher else {}),
    }
