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
from mobilenet_train.tracking import RunDescription, Trackers, terminal
from mobilenet_train.tracking.terminal import Clock, progress_numbers, summary_line
from tests.tracking.conftest import EPOCHS, epoch_events, progress, record_all, result


def run_on(console: Console, description: RunDescription) -> None:
    trackers = Trackers(description, [], 0, console)
    for epoch in range(EPOCHS):
        record_all(trackers, epoch_events(epoch))
    trackers.close(finished=True)


def test_a_pipe_gets_the_lines_of_the_log_and_one_more_an_epoch(tmp_path: Path, description: RunDescription) -> None:
    console = Console(file=io.StringIO(), width=40)  # narrower than a line: nothing may wrap
    run_on(console, description)
    lines = console.file.getvalue().splitlines(keepends=True)
    more = [line for line in lines if line.startswith("epoch ")]
    assert "".join(line for line in lines if line not in more) == (tmp_path / "train.log").read_text()
    assert more[0] == "epoch 0/3: 412 images/s, learning rate 0.1, run ends in 0:00:00\n"
    assert len(more) == EPOCHS


def test_the_time_left_is_that_of_the_run_at_the_pace_of_this_session(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    clock = Clock(step=2, updates=6)
    now[0] = 110.0
    clock.record(epoch_events(1)[0])  # what came before the first epoch does not count
    now[0] = 120.0
    clock.record(epoch_events(1)[1])
    assert clock.rest == "run ends in 0:00:30"


def test_a_terminal_gets_a_bar_and_one_line_an_epoch(description: RunDescription) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, force_interactive=True)
    run_on(console, description)
    shown = console.file.getvalue()
    assert "loss 1.500  40.0%  400 img/s  lr 0.1" in shown
    assert "run ends in 0:00:00" in shown
    for epoch in range(EPOCHS):
        assert shown.count(summary_line(result(epoch), EPOCHS, room=100)) == 1
    assert "accuracy_rate" not in shown


@pytest.mark.parametrize("width", [40, 60, 80])
def test_the_lines_fit_the_terminal_and_keep_what_matters_most(width: int) -> None:
    full = result(7, ema_test=Score(1.0, 60.0), val=Score(1.0, 61.0))
    line = summary_line(full, 20, width)
    assert len(line) <= width
    assert "test 1.218 64.58%" in line
    numbers = progress_numbers(progress(3), "run ends in 0:12:03", width - 14)
    assert len(numbers) <= width - 14
    assert numbers.endswith("run ends in 0:12:03")


def test_a_wide_terminal_gets_everything() -> None:
    line = summary_line(result(7, ema_test=Score(1.0, 60.0), val=Score(1.0, 61.0)), 20, 200)
    rest = "EMA 60.00%  val 61.00%  412 img/s  32 s"
    assert line == f"epoch  7/20  train 1.581 42.22%  test 1.218 64.58%  {rest}"


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
tracker = Trackers(RunDescription(Path(sys.argv[1]), "", "", "", 3, 2, 6, {}, frozenset(), False, False), [], 0)
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
