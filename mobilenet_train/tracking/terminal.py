"""What a run shows on the terminal: a progress bar for people, the epoch log's lines for pipes and files."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from mobilenet_train import results
from mobilenet_train.results import EpochResult, EpochStarted, Event
from mobilenet_train.tracking.description import RunDescription
from mobilenet_train.tracking.epoch_log import closing_lines, event_lines


class Terminal:
    """Shows events on `console`. Once the terminal or pipe is closed nothing more is shown; the run continues."""

    def __init__(self, description: RunDescription, step: int, console: Console) -> None:
        self._console = console
        self._open = True
        self._view = (
            ProgressView(description, step, console)
            if console.is_interactive or (console.is_jupyter and find_spec("ipywidgets"))  # rich draws with these there
            else PlainView(description.epochs, console)
        )

    def record(self, event: Event) -> None:
        self._try(lambda: self._view.record(event))

    def close(self, history: Sequence[EpochResult], finished: bool) -> None:
        self._try(lambda: self._view.close(history, finished))

    def _try(self, show: Callable[[], None]) -> None:
        if not self._open:
            return
        try:
            show()
        except (OSError, SystemExit):  # rich leaves the program at a broken pipe
            self._open = False
            _silence(self._console)


class PlainView:
    """The lines of train.log and nothing else."""

    def __init__(self, epochs: int, console: Console) -> None:
        self._epochs = epochs
        self._console = console

    def record(self, event: Event) -> None:
        self._print(event_lines(event, self._epochs))

    def close(self, history: Sequence[EpochResult], finished: bool) -> None:
        self._print(closing_lines(history) if finished else [])

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class ProgressView:
    """A bar for the epoch under way, below one line for each epoch done."""

    def __init__(self, description: RunDescription, step: int, console: Console) -> None:
        self._run = description
        self._first_step = self._step = step
        self._clock: float | None = None  # when the first epoch of this session started
        self._progress = Progress(
            TextColumn("{task.description}", style="bold", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None, complete_style="cyan", finished_style="cyan"),
            TextColumn("{task.fields[numbers]}", table_column=Column(no_wrap=True)),
            console=console,
            auto_refresh=False,  # no thread: an error on the terminal appears where it can be caught
            redirect_stdout=False,  # or a closed terminal would take standard error along
            redirect_stderr=False,
            transient=True,
            expand=True,
        )
        self._bar = self._progress.add_task("", numbers="")

    def record(self, event: Event) -> None:
        if isinstance(event, EpochStarted):
            self._start(event)
        else:
            self._step = event.step
        if isinstance(event, results.Progress):
            self._advance(event)
        if isinstance(event, EpochResult):
            line = summary_line(event, self._run.epochs)
            self._progress.console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")

    def close(self, history: Sequence[EpochResult], finished: bool) -> None:  # noqa: ARG002
        """Takes the bar away; the lines above it stay."""
        self._progress.stop()

    def _start(self, event: EpochStarted) -> None:
        if self._clock is None:
            self._clock = time.monotonic()
            self._progress.start()
        before = event.epoch * self._run.updates_per_epoch
        total = min(self._run.updates_per_epoch, self._run.updates - before)
        self._progress.update(
            self._bar,
            description=f"epoch {event.epoch}/{self._run.epochs}",
            completed=self._step - before,
            total=total,
            numbers="",
        )
        self._progress.refresh()

    def _advance(self, event: results.Progress) -> None:
        before = event.epoch * self._run.updates_per_epoch
        self._progress.update(
            self._bar,
            completed=event.step - before,
            total=min(self._run.updates_per_epoch, event.updates - before),
            numbers=f"{progress_numbers(event)}  {self._left(event.updates)} left",
        )
        self._progress.refresh()

    def _left(self, updates: int) -> timedelta:
        """Time to the end of the run, at this session's pace so far (evaluations included)."""
        assert self._clock is not None, "an epoch starts before it advances"
        pace = (time.monotonic() - self._clock) / (self._step - self._first_step)
        return timedelta(seconds=round(pace * (updates - self._step)))


def progress_numbers(event: results.Progress) -> str:
    """The epoch so far, in short."""
    return (
        f"loss {event.train.loss:.3f}  {event.train.top1:.1f}%  "
        f"{event.images_per_second:.0f} img/s  lr {event.learning_rate:.3g}"
    )


def summary_line(result: EpochResult, epochs: int) -> str:
    """A finished epoch, within 80 characters unless it has both EMA and val."""
    width = len(str(epochs))
    parts = [
        f"epoch {result.epoch:{width}}/{epochs}",
        f"train {result.train.loss:.3f} {result.train.top1:5.2f}%",
    ]
    if result.test:
        parts.append(f"test {result.test.loss:.3f} {result.test.top1:5.2f}%")
    if result.ema_test:
        parts.append(f"EMA {result.ema_test.top1:5.2f}%")
    if result.val:
        parts.append(f"val {result.val.top1:5.2f}%")
    seconds = result.seconds + result.evaluation_seconds
    return "  ".join([*parts, f"{result.images_per_second:.0f} img/s", f"{seconds:.0f} s"])


def _silence(console: Console) -> None:
    """Sends all further output nowhere, so that the flush at the program's end cannot fail either."""
    console.quiet = True
    try:
        descriptor = console.file.fileno()
    except (OSError, ValueError):
        return  # not a real file
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
