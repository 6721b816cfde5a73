"""Two hundred epochs: no growth of memory or open files, and a clock that jumps does no harm."""

import os
import time
from pathlib import Path

import pytest
from rich.console import Console

from mobilenet_train.runs import folder as run_folder
from mobilenet_train.runs.build import build_run
from mobilenet_train.runs.session import train
from tests.conftest import TINY, configure
from tests.records import rows

pytestmark = pytest.mark.faults


class Watch:
    """Never asks for a stop; notes memory and open files at each call."""

    exit_code = 143

    def __init__(self) -> None:
        self.memory: list[int] = []
        self.files: list[int] = []

    def __call__(self) -> bool:
        self.memory.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))
        self.files.append(len(os.listdir("/proc/self/fd")))  # noqa: PTH208
        return False


def test_200_epochs_grow_neither_memory_nor_open_files(tmp_path: Path) -> None:
    network = ("model=custom", "model.factory=tests.small_network:small_network")
    options = ("dataset.max_per_class=4", "epochs=200", "ema.decay=0.9", "log_every=1", f"run_dir={tmp_path / 'run'}")
    config = configure(*(word for word in TINY if not word.startswith("model")), *network, *options)
    folder, held = run_folder.create(config, [])
    watch = Watch()
    with held:
        assert train(build_run(config), folder, Console(quiet=True), watch) == 0  # type: ignore[arg-type]
    assert len(rows(folder)) == 200
    quarter = len(watch.memory) // 4
    early, late = max(watch.memory[quarter : 2 * quarter]), max(watch.memory[3 * quarter :])
    print(f"memory {early / 1e6:.1f} -> {late / 1e6:.1f} MB, open files {watch.files[quarter]} -> {watch.files[-1]}")
    assert late - early < 20e6
    assert watch.files[-1] <= watch.files[quarter]


def test_a_clock_that_jumps_back_does_not_break_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(*TINY, "epochs=3", f"run_dir={tmp_path / 'run'}")
    folder, held = run_folder.create(config, [])
    real, calls = time.time, iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(calls))
    with held:
        assert train(build_run(config), folder, Console(quiet=True), Watch()) == 0  # type: ignore[arg-type]
    assert len(rows(folder)) == 3
    assert len((folder / "train.log").read_text().splitlines()) == 10
    seconds = [float(line.split(",")[-1]) for line in (folder / "metrics.csv").read_text().splitlines()[1:]]
    assert all(0 < value < 60 for value in seconds)
