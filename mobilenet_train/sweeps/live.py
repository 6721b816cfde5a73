"""The jobs of a sweep as they run: a table that stays in place on a terminal, one line an event elsewhere."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mobilenet_train.console import add_rows, say, title_of
from mobilenet_train.errors import RunError
from mobilenet_train.sweeps.folder import state_of
from mobilenet_train.sweeps.report import duration
from mobilenet_train.tracking.metrics_csv import read_metrics

SECONDS_BETWEEN_DRAWINGS = 0.5


@dataclass
class LiveJob:
    """How far a job is, read off its metrics.csv."""

    folder: Path
    epochs: int | None  # None with a budget
    state: str = "waiting"
    began: float = 0.0
    epochs_before: int = 0  # those that earlier sessions have done

    def seconds(self) -> float:
        """Since this sweep started it."""
        return time.monotonic() - self.began

    def cells(self) -> list[str]:
        """Name, state, epoch, top-1, images/s and time left."""
        rows = rows_of(self.folder)
        last = rows[-1] if rows else None
        here = len(rows) - self.epochs_before
        left = ""
        if here > 0 and self.epochs is not None and self.state == "running":
            left = duration(self.seconds() / here * (self.epochs - len(rows)))
        top1 = next((row["test_top1"] for row in reversed(rows) if row["test_top1"]), "")
        throughput = f"{float(last['images_per_second']):.0f}" if last else ""
        return [self.folder.name, self.state, f"{len(rows)}/{self.epochs or '?'}", top1, throughput, left]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """What is known of the epochs done; a damaged file, which the job writes again, must not stop the others."""
    try:
        return read_metrics(folder)
    except RunError:
        return []


class View:
    """Shows the jobs until it is left; a terminal that is gone does not stop them."""

    def __init__(self, jobs: Sequence[LiveJob], console: Console) -> None:
        self._jobs = {job.folder: job for job in jobs}
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_interactive else None
        self._drawn = 0.0

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.update(self.table(), refresh=True)
            self._live.stop()

    def started(self, folder: Path) -> None:
        """The job of that run folder has begun, or continues."""
        job = self._jobs[folder]
        job.state, job.began, job.epochs_before = "running", time.monotonic(), len(rows_of(folder))
        self._report(f"started {folder.name}")

    def ended(self, folder: Path, reason: str) -> None:
        """The job of that run folder has ended; `reason` is empty unless it failed."""
        job = self._jobs[folder]
        job.state = state_of(folder.parent, folder.name)
        _, _, epoch, top1, _, _ = job.cells()
        self._report(f"{job.state} {folder.name}: epoch {epoch}, top-1 {top1 or '?'} % ({duration(job.seconds())})")
        if reason:
            say(self._console, reason, kind="warning")

    def refresh(self) -> None:
        """Draws the table again, if it is time."""
        if self._live and time.monotonic() - self._drawn > SECONDS_BETWEEN_DRAWINGS:
            self._live.update(self.table(), refresh=True)
            self._drawn = time.monotonic()

    def table(self) -> Table:
        """What the terminal shows: one line a job."""
        done = sum(job.state == "finished" for job in self._jobs.values())
        table = Table(title=title_of(f"{done} of {len(self._jobs)} finished"), title_justify="left")
        for column in ("job", "state", "epochs", "top-1", "images/s", "left"):
            table.add_column(column, justify="left" if column in ("job", "state") else "right")
        add_rows(table, (job.cells() for job in self._jobs.values()))
        return table

    def _report(self, line: str) -> None:
        if not self._live:
            say(self._console, line)
