"""What a run shows on the terminal: a progress bar for people, the epoch log's lines and more for pipes and files."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from mobilenet_train import results
from mobilenet_train.results import EpochResult, EpochStarted, Event
from mobilenet_train.tracking.description import RunDescription
from mobilenet_train.tracking.epoch_log import closing_lines, event_lines

SHORTEST_BAR = 6  # characters, with the blanks beside it


class Terminal:
    """Shows events on `console`. Once the terminal or pipe is closed nothing more is shown; the run continues."""

    def __init__(self, description: RunDescription, step: int, console: Console) -> None:
        self._console = console
        self._open = True
        self._view = (
            ProgressView(description, step, console)
            if console.is_interactive or (console.is_jupyter and find_spec("ipywidgets"))  # rich draws with these there
            else PlainView(description, step, console)
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


class Clock:
    """How long the rest of the run will take, at this session's pace so far (evaluations included)."""

    def __init__(self, step: int, updates: int) -> None:
        self._first_step = self.step = step
        self._updates = updates
        self._began = time.monotonic()

    def record(self, event: Event) -> None:
        """Notes how far the run is."""
        if isinstance(event, EpochStarted):
            if self.step == self._first_step:
                self._began = time.monotonic()
            return
        self.step = event.step
        if isinstance(event, results.Progress):
            self._updates = event.updates

    @property
    def rest(self) -> str:
        """`run ends in 0:12:03`."""
        pace = (time.monotonic() - self._began) / max(1, self.step - self._first_step)
        return f"run ends in {timedelta(seconds=round(pace * max(0, self._updates - self.step)))}"


class PlainView:
    """The lines of train.log, and a line more at the end of each epoch."""

    def __init__(self, description: RunDescription, step: int, console: Console) -> None:
        self._epochs = description.epochs
        self._console = console
        self._clock = Clock(step, description.updates)

    def record(self, event: Event) -> None:
        self._clock.record(event)
        self._print(event_lines(event, self._epochs))
        if isinstance(event, EpochResult):
            rate = f"{event.images_per_second:.0f} images/s, learning rate {event.learning_rate:.3g}"
            self._print([f"epoch {event.epoch}/{self._epochs}: {rate}, {self._clock.rest}"])

    def close(self, history: Sequence[EpochResult], finished: bool) -> None:
        self._print(closing_lines(history) if finished else [])

    def _print(self, lines: list[str]) -> None:
        for line in lines:
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


class ProgressView:
    """A bar for the epoch under way, below one line for each epoch done."""

    def __init__(self, description: RunDescription, step: int, console: Console) -> None:
        self._run = description
        self._clock = Clock(step, description.updates)
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
        self._clock.record(event)
        if isinstance(event, EpochStarted):
            self._progress.start()
            self._draw(event.epoch, self._run.updates, "")
        if isinstance(event, results.Progress):
            room = self._progress.console.width - len(self._name(event.epoch)) - SHORTEST_BAR
            self._draw(event.epoch, event.updates, progress_numbers(event, self._clock.rest, room))
        if isinstance(event, EpochResult):
            line = summary_line(event, self._run.epochs, self._progress.console.width)
            self._progress.console.print(line, markup=False, highlight=False, no_wrap=True, overflow="ellipsis")

    def close(self, history: Sequence[EpochResult], finished: bool) -> None:  # noqa: ARG002
        """Takes the bar away; the lines above it stay."""
        self._progress.stop()

    def _name(self, epoch: int) -> str:
        return f"epoch {epoch}/{self._run.epochs}"

    def _draw(self, epoch: int, updates: int, numbers: str) -> None:
        before = epoch * self._run.updates_per_epoch
        self._progress.update(
            self._bar,
            description=self._name(epoch),
            completed=self._clock.step - before,
            total=min(self._run.updates_per_epoch, updates - before),
            numbers=numbers,
        )
        self._progress.refresh()


def progress_numbers(event: results.Progress, rest: str, room: int) -> str:
    """The epoch so far and the time to the run's end, as much of it as `room` characters hold."""
    parts = {
        "loss": f"loss {event.train.loss:.3f}",
        "top1": f"{event.train.top1:.1f}%",
        "throughput": f"{event.images_per_second:.0f} img/s",
        "rate": f"lr {event.learning_rate:.3g}",
        "rest": rest,
    }
    return fitting(parts, ("rate", "throughput", "top1", "loss"), room)


def summary_line(result: EpochResult, epochs: int, room: int) -> str:
    """A finished epoch, as much of it as `room` characters hold; the test top-1 always."""
    seconds = result.seconds + result.evaluation_seconds
    parts = {
        "epoch": f"epoch {result.epoch:{len(str(epochs))}}/{epochs}",
        "train": f"train {result.train.loss:.3f} {result.train.top1:5.2f}%",
        "test": f"test {result.test.loss:.3f} {result.test.top1:5.2f}%" if result.test else "",
        "ema": f"EMA {result.ema_test.top1:5.2f}%" if result.ema_test else "",
        "val": f"val {result.val.top1:5.2f}%" if result.val else "",
        "throughput": f"{result.images_per_second:.0f} img/s",
        "time": f"{seconds:.0f} s",
    }
    return fitting(parts, ("throughput", "time", "train", "ema", "val"), room)


def fitting(parts: Mapping[str, str], dispensable: Sequence[str], room: int) -> str:
    """The parts on one line, in order; as many of the `dispensable` ones, the first first, are left out as it takes."""
    for count in range(len(dispensable) + 1):
        line = "  ".join(text for name, text in parts.items() if text and name not in dispensable[:count])
        if len(line) <= room:
            break
    return line


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
