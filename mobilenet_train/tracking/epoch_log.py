"""train.log: three lines an epoch for people, in the format that scripts for the tutorials' logs read."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from mobilenet_train.disk import append_text, write_text
from mobilenet_train.results import EpochResult, EpochStarted, Event


class EpochLog:
    """Writes train.log as events come; `history` is the list that its owner extends after each result."""

    def __init__(self, path: Path, epochs: int, history: Sequence[EpochResult]) -> None:
        self._path = path
        self._epochs = epochs
        self._history = history
        self._started: EpochStarted | None = None  # the epoch under way
        write_text(path, self._text())

    def record(self, event: Event) -> None:
        """Appends the lines of an event. Raises RunError if the file cannot be written."""
        self._append(event_lines(event, self._epochs))
        if isinstance(event, EpochStarted):
            self._started = event
        if isinstance(event, EpochResult):
            self._started = None

    def finish(self) -> None:
        """The closing line of a run that came to its end."""
        self._append(closing_lines(self._history))

    def _append(self, lines: list[str]) -> None:
        if lines:
            append_text(self._path, _joined(lines), before=self._text)

    def _text(self) -> str:
        """The whole log so far."""
        lines = [line for result in self._history for line in epoch_lines(result, self._epochs)]
        return _joined(lines + (event_lines(self._started, self._epochs) if self._started else []))


def event_lines(event: Event, epochs: int) -> list[str]:
    """What an event adds to the log."""
    if isinstance(event, EpochStarted):
        return [f"{_stamp(event.time)}, train epoch: {event.epoch}/{epochs}"]
    if isinstance(event, EpochResult):
        return [_last_batch_line(event), _scores_line(event)]
    return []


def epoch_lines(result: EpochResult, epochs: int) -> list[str]:
    """All three lines of a finished epoch."""
    started = EpochStarted(result.epoch, batch=0, time=result.started_at)
    return event_lines(started, epochs) + event_lines(result, epochs)


def closing_lines(history: Sequence[EpochResult]) -> list[str]:
    """The test top-1 of every epoch that was evaluated, in percent; nothing if there was no epoch."""
    if not history:
        return []
    top1 = " ".join(f"{result.test.top1:.2f}" for result in history if result.test)
    return [f"{_stamp(history[-1].finished_at)},accuracy_rate=[{top1}]"]


def _last_batch_line(result: EpochResult) -> str:
    fraction = round(result.train.top1 / 100, 10)  # of the whole epoch; rounded to hide 0.42219999999999996
    return f"{_stamp(result.trained_at)}, loss:{result.last_batch_loss}, accuracy:{fraction}"


def _scores_line(result: EpochResult) -> str:
    train, test = result.train, result.test
    line = f"{_stamp(result.finished_at)}, Train Loss is:{train.loss:.4f}, Train Accuracy is:{train.top1:.4f}%"
    # "::" as in the tutorials
    return line + (f", Test Loss is::{test.loss:.4f} Test Accuracy is:{test.top1:.4f}%" if test else "")


def _stamp(time: float) -> str:
    return datetime.fromtimestamp(time).strftime("%Y-%m-%d %H:%M:%S")


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
