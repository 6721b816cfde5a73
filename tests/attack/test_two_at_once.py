"""Finding 23: of two starts at once with one folder the second says who has it."""

import fcntl
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mobilenet_train.errors import RunError
from mobilenet_train.runs import session
from mobilenet_train.runs.folder import create
from tests.attack.flips import TINY
from tests.attack.helpers import only_line, run_tool
from tests.children import Child, mnet_train
from tests.conftest import configure
from tests.sweeps.made import make_sweep

pytestmark = pytest.mark.faults


def wait_for_the_other(place: Path) -> None:
    """Both starts are ready before either makes the folder."""
    real = session.make_folder

    def together(*arguments: Any) -> Any:
        (place / f"ready{os.getpid()}").touch()
        while len(list(place.glob("ready*"))) < 2:
            time.sleep(0.01)
        return real(*arguments)

    session.make_folder = together


def test_of_two_starts_at_once_with_one_run_dir_the_second_names_the_first(tmp_path: Path) -> None:
    words = (*TINY, f"run_dir={tmp_path}/run", "epochs=200")
    children = [
        Child(tmp_path / f"output{n}", mnet_train(*words, prepare=partial(wait_for_the_other, tmp_path)), tmp_path)
        for n in range(2)
    ]
    children[0].wait_for(lambda: any(child.ended() is not None for child in children))
    second, first = sorted(children, key=lambda child: child.ended() is None)
    first.kill()
    first.wait()
    assert second.ended() == 1, second.text()
    assert f"in use by process {first.pid}" in only_line(second.text())


def test_a_folder_of_someone_else_gets_no_lock(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RunError, match=r"notes\.txt"):
        create(configure(*TINY, f"run_dir={tmp_path}"), [])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_report_waits_for_the_sweep_that_writes_its_own(tmp_path: Path) -> None:
    """Both write the same files: one would take the other's temporary file away."""
    folder = make_sweep(tmp_path / "sweep", {(0.1, 0): 60.0})
    with (folder / "sweep.json").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        report = Child(tmp_path / "output", partial(run_tool, "report", (str(folder),), None), tmp_path)
        report.wait_for(lambda: "60.00" in report.text())
        time.sleep(0.5)
        assert report.ended() is None
        assert not (folder / "sweep.csv").exists()
    assert report.wait() == 0
    assert (folder / "sweep.csv").exists()
