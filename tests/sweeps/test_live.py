"""The table of a sweep on a terminal: what matters first, however many jobs there are and however narrow it is."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from mobilenet_train.sweeps import live
from mobilenet_train.sweeps.live import LiveJob, View

EPOCHS = 20
HEADER = "epoch,test_top1,images_per_second\n"
STATES = ["finished"] * 22 + ["running"] * 4 + ["failed"] + ["waiting"] * 33


@pytest.fixture
def jobs(tmp_path: Path) -> list[LiveJob]:
    made = []
    for number, state in enumerate(STATES):
        folder = tmp_path / f"optim.lr-0.05_model.width_mult-0.75_{number}"
        folder.mkdir()
        done = {"finished": EPOCHS, "running": 8, "failed": 3, "waiting": 0}[state]
        rows = "".join(f"{epoch},{60 + epoch}.25,400.0\n" for epoch in range(done))
        (folder / "metrics.csv").write_text(HEADER + rows)
        made.append(LiveJob(folder, EPOCHS))
    return made


def shown(jobs: list[LiveJob], width: int) -> list[str]:
    console = Console(width=width, height=24, file=io.StringIO())
    view = View(jobs, console)
    for job, state in zip(jobs, STATES, strict=True):
        job.state = state
    console.print(view.table())
    return [line for line in console.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80])
def test_sixty_jobs_fit_a_terminal_with_failed_and_running_ones_first(jobs: list[LiveJob], width: int) -> None:
    lines = shown(jobs, width)
    assert len(lines) < 23
    first = next(number for number, line in enumerate(lines) if "optim.lr" in line)
    assert [line.split()[1] for line in lines[first : first + 6]] == ["failed", *["running"] * 4, "waiting"]
    assert "67.25" in lines[first + 1]
    assert " ".join(lines[:first]).startswith("60 jobs: 1 failed, 4 running, 33")
    assert lines[-1].strip() == "... and 22 waiting, 22 finished"


def test_the_estimate_weighs_jobs_by_what_they_are_expected_to_take(
    jobs: list[LiveJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    short, long = jobs[-2:]
    short.expected, long.expected = 100.0, 300.0
    view = View([short, long], Console(file=io.StringIO()))
    assert view.progress() == "2 jobs: 2 waiting"
    now[0] += 50
    short.state = "finished"
    assert view.progress() == "2 jobs: 1 waiting, 1 finished, about 0:02:30 left"


def test_what_earlier_sessions_did_is_not_counted_as_this_ones_pace(
    jobs: list[LiveJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    begun = jobs[22]  # 8 of 20 epochs are behind
    view = View([begun], Console(file=io.StringIO()))
    now[0] += 60
    (begun.folder / "metrics.csv").write_text(HEADER + "0,60.0,400.0\n" * 10)
    assert view.progress() == "1 job: 1 waiting, about 0:05:00 left"
