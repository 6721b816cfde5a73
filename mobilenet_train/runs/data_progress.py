"""What people see while a data set is prepared: its messages, and a bar with a rate on a terminal."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mobilenet_train.console import say
from mobilenet_train.data.cache import Listener


@contextmanager
def shown(console: Console, stop: Callable[[], bool]) -> Iterator[Listener]:
    """A listener that writes on `console`; its bar is there from the first progress to the end of the block."""
    bar = Progress(
        TextColumn("images"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,  # no thread: the workers are forked from this process
        redirect_stdout=False,
        redirect_stderr=False,
        transient=True,
        disable=not console.is_interactive,
    )
    task = bar.add_task("", total=None, start=False, rate=0.0)
    began: list[tuple[float, int]] = []

    def progress(done: int, total: int) -> None:
        if not began:
            began.append((time.perf_counter(), done))
            bar.start()
            bar.start_task(task)
        seconds, first = time.perf_counter() - began[0][0], began[0][1]
        with suppress(OSError, SystemExit):  # a terminal that is gone is no reason to stop
            bar.update(task, completed=done, total=total, rate=(done - first) / max(seconds, 1e-9), refresh=True)

    try:
        yield Listener(lambda message, kind: say(console, message, kind), progress, stop)
    finally:
        bar.stop()
