"""SIGKILL for the sweep and for its jobs, at random moments: issued again, it ends as one never disturbed."""

import contextlib
import os
import random
import signal
import time
from pathlib import Path

import pytest

from .conftest import TINY_SWEEP, Run
from .test_sweep import table, written_at

KILLS = 3
OPTIONS = (*TINY_SWEEP, "epochs=3", "checkpoint.every_minutes=0.001", "optim.lr=0.02", "model.width_mult=0.1")


@pytest.mark.faults
def test_kills_of_the_sweep_and_of_its_jobs_leave_no_trace(run_sweep: Run, tmp_path: Path) -> None:
    whole = run_sweep(*OPTIONS, "seed=0,1", "sweep=whole")
    began = time.monotonic()
    assert whole.wait() == 0, whole.text()
    lasting = time.monotonic() - began
    folder = tmp_path / "outputs/s"
    draw = random.Random(20_261_122)
    finished: dict[str, int] = {}
    for number in range(KILLS):
        child = run_sweep(*OPTIONS, "seed=0,1")
        child.wait_for(lambda c=child: "\nstarted " in c.text() or c.text().count("finished") >= 2)
        time.sleep(draw.uniform(0, lasting / 3))
        if number % 2:
            kill_a_job(folder, draw)
            assert child.wait() in (0, 1)
        else:
            child.kill()
            assert child.wait() in (0, -signal.SIGKILL)
        finished |= {job: when for job, when in done(folder).items() if job not in finished}
    last = run_sweep(*OPTIONS, "seed=0,1")
    assert last.wait() == 0, last.text()
    (row,) = table(folder)
    assert (row["seeds"], row["finished"]) == ("0 1", "2")
    # t(0.975, 1) / sqrt(2) = 12.706 / 1.414
    assert float(row["final_top1_ci95"]) == pytest.approx(8.9846 * float(row["final_top1_sd"]), abs=0.01)
    assert table(folder) == table(tmp_path / "outputs/whole")
    assert {job: done(folder)[job] for job in finished} == finished, "a finished job ran again"


def kill_a_job(folder: Path, draw: random.Random) -> None:
    """One of the processes that hold a run folder's lock, if there is any."""
    pids = [int(text) for path in sorted(folder.glob("*/lock")) if (text := path.read_text().strip())]
    running = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    with contextlib.suppress(ProcessLookupError, IndexError):
        os.kill(draw.choice(running), signal.SIGKILL)


def done(folder: Path) -> dict[str, int]:
    """When the summary of each finished job was written."""
    times = written_at(folder) if folder.exists() else {}
    return {name: when for name, when in times.items() if '"status": "finished"' in summary(folder, name)}


def summary(folder: Path, name: str) -> str:
    return next(folder.glob(f"{name}_*/summary.json")).read_text()
