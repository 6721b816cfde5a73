"""One stream of results in; train.log, metrics.csv, TensorBoard, the terminal, curves.png and callbacks out."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from mobilenet_train.results import EpochResult, EpochStarted, Event, Operation
from mobilenet_train.tracking.callbacks import Callback, close
from mobilenet_train.tracking.curves import draw_curves
from mobilenet_train.tracking.description import RunDescription
from mobilenet_train.tracking.epoch_log import EpochLog
from mobilenet_train.tracking.metrics_csv import MetricsCsv
from mobilenet_train.tracking.tensorboard import TensorBoard
from mobilenet_train.tracking.terminal import Terminal

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

SECONDS_BETWEEN_DRAWINGS = 60


class Trackers:
    """All records of a run. For a resume, `history` and `step` are what the checkpoint knows.

    When `record` returns, the event is in every file, and the callbacks had it after that. A file that cannot be
    written raises RunError; what a callback raises is passed on.
    """

    def __init__(
        self,
        description: RunDescription,
        history: Sequence[EpochResult],
        step: int,
        console: Console | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        folder = description.folder
        self._description = description
        self._curves = folder / "curves.png"
        self._drawn_at: float | None = None
        self._history = list(history)
        self._log = EpochLog(folder / "train.log", description.epochs, self._history)
        self._csv = MetricsCsv(folder / "metrics.csv", self._history)
        self._board = TensorBoard(description, step, self._history) if description.tensorboard else None
        self._terminal = Terminal(description, step, console or Console())
        self._callbacks = callbacks

    def record(self, event: Event) -> None:
        """Writes the event to every record that shows it; redraws the curves once a minute at most."""
        self._log.record(event)
        if isinstance(event, EpochResult):
            self._csv.record(event)
            self._history.append(event)
        if self._board and not isinstance(event, EpochStarted):
            self._board.record(event)
        self._terminal.record(event)
        if isinstance(event, EpochResult) and self._drawing_is_due():
            self._draw()
        for callback in self._callbacks:
            callback(event)

    def record_images(self, images: "Tensor") -> None:
        """Shows training images of shape (N, 3, H, W), values 0..1, as the network gets them."""
        if self._board:
            self._board.record_images(images)

    def record_graph(self, operations: Sequence[Operation]) -> None:
        """Shows the network."""
        if self._board:
            self._board.record_graph(operations)

    def record_figures(self, figures: "Mapping[str, Figure]") -> None:
        """Shows drawings of the network as it is now, by name."""
        if self._board:
            self._board.record_figures(figures)

    def close(self, finished: bool) -> None:
        """Ends the records; `finished` if the run came to its end and was not interrupted."""
        self._terminal.close(self._history, finished)  # first: it cannot fail, and gives the screen back
        if finished:
            self._log.finish()
        if self._board:
            self._board.close(finished)
        if self._history:
            self._draw()
        for callback in self._callbacks:
            close(callback, finished)

    def _drawing_is_due(self) -> bool:
        return self._drawn_at is None or time.monotonic() - self._drawn_at >= SECONDS_BETWEEN_DRAWINGS

    def _draw(self) -> None:
        draw_curves(self._history, self._curves, self._description.title, self._description.machine)
        self._drawn_at = time.monotonic()
