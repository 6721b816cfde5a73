import errno
import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mobilenet_train.results import Score
from mobilenet_train.tracking import RunDescription, Trackers
from mobilenet_train.tracking.terminal import summary_line
from tests.tracking.conftest import EPOCHS, epoch_events, record_all, result


def run_on(console: Console, description: RunDescription) -> None:
    trackers = Trackers(description, [], 0, console)
    for epoch in range(EPOCHS):
        record_all(trackers, epoch_events(epoch))
    trackers.close(finished=True)


def test_a_pipe_gets_exactly_the_lines_of_the_log(tmp_path: Path, description: RunDescription) -> None:
    console = Console(file=io.StringIO(), width=40)  # narrower than a line: nothing may wrap
    run_on(console, description)
    assert console.file.getvalue() == (tmp_path / "train.log").read_text()


def test_a_terminal_gets_a_bar_and_one_line_an_epoch(description: RunDescription) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, force_interactive=True)
    run_on(console, description)
    shown = console.file.getvalue()
    assert "loss 1.500  40.0%  400 img/s  lr 0.1" in shown
    assert "0:00:00 left" in shown
    for epoch in range(EPOCHS):
        assert shown.count(summary_line(result(epoch), EPOCHS)) == 1
    assert "accuracy_rate" not in shown


def test_the_line_of_an_epoch_fits_a_usual_terminal() -> None:
    assert len(summary_line(result(7, ema_test=Score(1.0, 60.0)), epochs=20)) <= 80


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:  # noqa: ARG002
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.parametrize("error", [errno.EPIPE, errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("interactive", [True, False])
def test_output_that_fails_ends_neither_the_run_nor_its_files(
    tmp_path: Path,
    description: RunDescription,
    error: int,
    interactive: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Stdout())  # rich redirects it at a broken pipe
    run_on(Console(file=Broken(error), force_terminal=interactive, force_interactive=interactive), description)
    assert len((tmp_path / "train.log").read_text().splitlines()) == 3 * EPOCHS + 1
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == EPOCHS + 1


class Stdout(io.StringIO):
    """A standard output that may be redirected without harm to the tests' own."""

    def fileno(self) -> int:
        return os.open(os.devnull, os.O_WRONLY)


PROGRAM = """
import sys
from pathlib import Path
from mobilenet_train.tracking import RunDescription, Trackers, trackers
from mobilenet_train.results import EpochResult, EpochStarted, Score

trackers.draw_curves = lambda *_: None
tracker = Trackers(RunDescription(Path(sys.argv[1]), "", 3, 2, 6, {}, frozenset(), False, False), [], 0)
scores = (Score(1.0, 50.0), Score(1.0, 50.0))
for epoch in range(3):
    tracker.record(EpochStarted(epoch, 0, 0.0))
    if epoch == 0:
        print("open", file=sys.stderr, flush=True)
        sys.stdin.readline()
    times = (0.0, 0.0, 0.0)
    tracker.record(EpochResult(epoch, 2 * epoch + 2, *times, 1.0, 50.0, *scores, None, None, 0.1, 400, 1, 1))
tracker.close(finished=True)
"""


@pytest.mark.parametrize("terminal", [True, False])
def test_a_program_whose_terminal_is_closed_ends_well(tmp_path: Path, terminal: bool) -> None:
    reader, writer = pty.openpty() if terminal else os.pipe()
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=writer,
        stderr=subprocess.PIPE,
        env={
            **os.environ,
            "TERM": "xterm",
            "PYTHONUNBUFFERED": "",
        },  # what stays in a buffer fails at the exit
    )
    assert program.stderr is not None
    assert program.stderr.readline() == b"open\n"
    os.close(writer)
    os.close(reader)
    _, errors = program.communicate(b"continue\n", timeout=60)
    assert (program.returncode, errors) == (0, b"")
    assert len((tmp_path / "train.log").read_text().splitlines()) == 3 * EPOCHS + 1
