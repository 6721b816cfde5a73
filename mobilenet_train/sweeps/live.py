"""The jobs of a sweep as they run: a table that stays in place on a terminal, one line an event elsewhere."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mobilenet_train.console import counted, plain, say, title_of
from mobilenet_train.errors import RunError
from mobilenet_train.sweeps.folder import state_of
from mobilenet_train.sweeps.report import duration
from mobilenet_train.tracking.metrics_csv import read_metrics

SECONDS_BETWEEN_DRAWINGS = 0.5
FIRST = ("failed", "running")  # of the table's lines; then what was stopped, what waits, and what has finished
LAST = ("waiting", "finished")
AROUND = 8  # lines around those of the jobs: two of title, four of names and rules, one of what is folded, the cursor's
COLUMNS = ("job", "state", "epochs", "top-1", "images/s", "left")
NARROW, KEPT = 60, 4  # characters of a terminal that shows the first columns only


@dataclass
class LiveJob:
    """How far a job is, read off its metrics.csv."""

    folder: Path
    epochs: int | None  # None with a budget
    expected: float = 1.0  # seconds, or any measure of how long it takes beside the others
    state: str = "waiting"
    began: float = 0.0
    epochs_before: int = 0  # those that earlier sessions have done

    def seconds(self) -> float:
        """Since this sweep started it."""
        return time.monotonic() - self.began

    def share(self) -> float:
        """How much of it is behind, from 0 to 1."""
        if self.state not in ("waiting", "running"):
            return 1.0
        return len(rows_of(self.folder)) / self.epochs if self.epochs else 0.0

    def cells(self) -> list[str]:
        """Name, state, epochs done, top-1, images/s and time left."""
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
        self._began = time.monotonic()
        self._behind = self._work_done()  # before this session

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
        _, _, epochs, top1, _, _ = job.cells()
        result = f"{epochs} epochs, top-1 {top1 or '?'} % ({duration(job.seconds())})"
        self._report(f"{job.state} {folder.name}: {result}; {self.progress()}")
        if reason:
            say(self._console, reason, kind="warning")

    def refresh(self) -> None:
        """Draws the table again, if it is time."""
        if self._live and time.monotonic() - self._drawn > SECONDS_BETWEEN_DRAWINGS:
            self._live.update(self.table(), refresh=True)
            self._drawn = time.monotonic()

    def table(self) -> Table:
        """What the terminal shows: failed and running jobs first, and no more lines than there is room for."""
        jobs, room = self._in_order(), max(1, self._console.height - AROUND)
        columns = COLUMNS[: KEPT if self._console.width < NARROW else None]
        look: dict[str, Any] = {"box": SIMPLE_HEAD, "pad_edge": False, "collapse_padding": True, "expand": True}
        table = Table(title=title_of(self.progress()), title_justify="left", caption_justify="left", **look)
        for column in columns:
            left = column in ("job", "state")
            table.add_column(column, justify="left" if left else "right", no_wrap=column != "job")
        for job in jobs[:room]:
            name, *cells = map(plain, job.cells()[: len(columns)])
            name.no_wrap, name.overflow = True, "ellipsis"  # gives way to the numbers, without a second line
            table.add_row(name, *cells)
        if jobs[room:]:
            table.caption = plain(f"... and {_by_state(jobs[room:])}")
        return table

    def progress(self) -> str:
        """All jobs by their state, and when the last will have ended."""
        done, all_of_it = self._work_done(), sum(job.expected for job in self._jobs.values())
        here, seconds = done - self._behind, time.monotonic() - self._began
        left = f", about {duration(seconds / here * (all_of_it - done))} left" if here > 0 and done < all_of_it else ""
        return f"{counted(len(self._jobs), 'job')}: {_by_state(self._in_order())}{left}"

    def _in_order(self) -> list[LiveJob]:
        return sorted(self._jobs.values(), key=_place)

    def _work_done(self) -> float:
        return sum(job.expected * job.share() for job in self._jobs.values())

    def _report(self, line: str) -> None:
        if not self._live:
            say(self._console, line)


def _place(job: LiveJob) -> int:
    if job.state in FIRST:
        return FIRST.index(job.state)
    return len(FIRST) + 1 + LAST.index(job.state) if job.state in LAST else len(FIRST)


def _by_state(jobs: Sequence[LiveJob]) -> str:
    return ", ".join(f"{count} {state}" for state, count in Counter(job.state for job in jobs).items())
