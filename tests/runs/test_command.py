"""The command as users type it: real images in, a complete run folder out."""

import csv
import json
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.children import Child
from tests.children import mnet_train as command_line
from tests.conftest import RUN, TINY, Command
from tests.small_cifar10 import accept_small


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_the_run_folder_holds_everything(finished: Path) -> None:
    names = {str(path.relative_to(finished / "run")) for path in (finished / "run").rglob("*") if path.is_file()}
    events = {name for name in names if name.startswith("events.out.tfevents.")}
    assert len(events) == 1
    assert names - events == {
        "config.yaml",
        "overrides.yaml",
        "train.log",
        "metrics.csv",
        "summary.json",
        "curves.png",
        "lock",
        "checkpoints/last.pt",
        "checkpoints/previous.pt",
        "checkpoints/best.pt",
    }
    assert {path.name for path in finished.iterdir()} == {"run", "stdout"}, "nothing else is left in the current folder"


def test_the_epoch_log_has_the_tutorials_lines_with_true_numbers(finished: Path) -> None:
    stamp = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"
    lines = (finished / "run/train.log").read_text().splitlines()
    rows = read_csv(finished / "run/metrics.csv")
    assert len(lines) == 3 * 2 + 1
    for epoch, row in enumerate(rows):
        begun, trained, tested = lines[3 * epoch : 3 * epoch + 3]
        assert re.fullmatch(rf"{stamp}, train epoch: {epoch}/2", begun)
        match = re.fullmatch(rf"{stamp}, loss:([\d.]+), accuracy:([\d.]+)", trained)
        assert match
        assert 100 * float(match[2]) == pytest.approx(float(row["train_top1"]), abs=0.006)
        match = re.fullmatch(
            rf"{stamp}, Train Loss is:([\d.]+), Train Accuracy is:([\d.]+)%, "
            rf"Test Loss is::([\d.]+) Test Accuracy is:([\d.]+)%",
            tested,
        )
        assert match
        assert float(match[4]) == pytest.approx(float(row["test_top1"]), abs=0.006)
        assert float(match[3]) == pytest.approx(float(row["test_loss"]), abs=0.0001)
    assert re.fullmatch(rf"{stamp},accuracy_rate=\[{rows[0]['test_top1']} {rows[1]['test_top1']}\]", lines[-1])


def test_a_pipe_gets_the_log_and_no_control_characters(finished: Path) -> None:
    printed = (finished / "stdout").read_text()
    lines = (finished / "run/train.log").read_text().splitlines()
    assert [line for line in printed.splitlines() if line in lines] == lines
    assert "\x1b" not in printed
    assert "final map 1x1" in printed
    assert "warning: the last stage sees a 1x1 map" in printed


def test_the_summary_says_what_was_run_and_what_came_out(finished: Path) -> None:
    summary = json.loads((finished / "run/summary.json").read_text())
    last = read_csv(finished / "run/metrics.csv")[-1]
    assert summary["status"] == "finished"
    assert summary["epochs_done"] == 2
    assert summary["final"]["test"]["top1"] == pytest.approx(float(last["test_top1"]), abs=0.006)
    assert summary["best"]["chosen_on"] == "test set"
    assert summary["parameters"] > 0
    assert summary["peak_memory_bytes"] > 10_000_000
    assert set(summary["versions"]) == {"mnet-train", "torch", "torchvision", "numpy", "python"}


def test_the_module_starts_it_too_and_the_same_seed_gives_the_same_numbers(
    finished: Path, mnet_train: Command, tmp_path: Path
) -> None:
    done = mnet_train(*RUN, "ema.decay=0.9")
    assert (done.returncode, done.stderr) == (0, "")
    times = {"images_per_second", "seconds"}
    ours, theirs = (read_csv(folder / "run/metrics.csv") for folder in (tmp_path, finished))
    assert [{k: v for k, v in row.items() if k not in times} for row in ours] == [
        {k: v for k, v in row.items() if k not in times} for row in theirs
    ]


def test_sigterm_saves_and_names_the_command_that_goes_on(
    forked: Command, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    options = (*RUN, "epochs=400", "optim.schedule.decay=exponential")
    child = Child(tmp_path_factory.mktemp("output") / "out", command_line(*options), tmp_path)
    log = tmp_path / "run/train.log"
    child.wait_for(lambda: log.exists() and "epoch: 2/" in log.read_text())
    child.kill(signal.SIGTERM)
    assert child.wait() == 143
    assert "mnet-train resume=run" in child.text()
    rows = len(read_csv(tmp_path / "run/metrics.csv"))
    assert rows >= 2
    again = forked("resume=run", "dry_run=true", "optim.schedule.factor=0.97")  # has an effect on this run only
    assert again.returncode == 0, again.stderr
    refused = forked("resume=run", "batch_size=16")
    assert refused.returncode == 2
    assert "batch_size=16" in refused.stderr
    assert "batch_size=32" in refused.stderr
    refused = forked("resume=run", RANK="0", WORLD_SIZE="20")
    assert refused.returncode == 2
    assert "batch_size=32 is the global batch and too small for 20 ranks" in refused.stderr


def test_a_finished_run_dir_says_so_and_exits_0(finished: Path, forked: Command) -> None:
    again = forked(*RUN, "ema.decay=0.9", folder=finished)
    assert again.returncode == 0, again.stderr
    assert "finished already" in again.stdout


def test_two_processes_can_not_train_in_one_folder(tmp_path: Path) -> None:
    from mobilenet_train.errors import RunError
    from mobilenet_train.runs import folder as run_folder

    with run_folder.lock(tmp_path), pytest.raises(RunError, match=f"in use by process {os.getpid()}"):
        run_folder.lock(tmp_path)
    run_folder.lock(tmp_path).close()


def test_a_dry_run_prints_plan_cost_and_time_and_writes_nothing(forked: Command, tmp_path: Path) -> None:
    done = forked(*TINY, "dry_run=true")
    assert done.returncode == 0, done.stderr
    for words in ("M multiply-adds at 32x32", "final map", "images/s", "minutes for ", "no run folder was made"):
        assert words in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_max_updates_ends_in_the_middle_of_an_epoch_with_an_evaluation(forked: Command, tmp_path: Path) -> None:
    assert forked(*RUN, "epochs=50", "max_updates=3", "tensorboard=false").returncode == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["updates_done"], summary["epochs_done"]) == (3, 1)
    assert not list((tmp_path / "run").glob("events.*"))


def test_a_budget_ends_a_run_on_time_with_its_rate_decayed(forked: Command, tmp_path: Path) -> None:
    done = forked(*TINY[:-2], "run_dir=run", "budget=10s", "tensorboard=false")
    assert done.returncode == 0, done.stderr
    assert "budget 10s: " in done.stdout
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "finished"
    assert 5 < summary["elapsed_seconds"] < 13
    assert summary["updates_done"] > 10
    assert float(read_csv(tmp_path / "run/metrics.csv")[-1]["learning_rate"]) < 0.02  # of 0.1


def test_epochs_typed_with_a_budget_are_an_upper_limit(forked: Command, tmp_path: Path) -> None:
    assert forked(*RUN, "epochs=1", "budget=1h", "tensorboard=false").returncode == 0
    assert json.loads((tmp_path / "run/summary.json").read_text())["epochs_done"] == 1


def test_early_stopping_ends_a_run_that_no_longer_gets_better(forked: Command, tmp_path: Path) -> None:
    options = ("epochs=40", "early_stop.patience=2", "dataset.val_fraction=0.3", "optim.lr=1e-9")
    assert forked(*RUN, *options).returncode == 0
    rows = read_csv(tmp_path / "run/metrics.csv")
    assert len(rows) < 40
    best = json.loads((tmp_path / "run/summary.json").read_text())["best"]
    assert best["chosen_on"] == "hold-out split"
    assert len(rows) - 1 - best["epoch"] == 2
    assert "val_top1" in rows[0]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_good_weights(forked: Command, tmp_path: Path) -> None:
    done = forked(*RUN, "epochs=20", "optim.lr=1000", "optim.schedule.warmup=0", "optim.schedule.decay=constant")
    assert done.returncode == 1
    assert "not finite at update" in done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "failed"
    assert "not finite" in summary["reason"]


MODEL = """
from torch import nn

def tiny(num_classes, resolution, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes),
    )
"""
DATA = """
import numpy as np
from mobilenet_train.data import ImageData

def stripes(count=64):
    labels = np.arange(count) % 2
    images = np.zeros((count, 16, 16), np.uint8)
    images[labels == 0, ::2] = 255
    images[labels == 1, :, ::2] = 255
    return ImageData(images, labels, images, labels, ["rows", "columns"])
"""


def test_ones_own_network_and_data_go_through_the_same_trainer(forked: Command, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MODEL + DATA)
    options = ("model=custom", "model.factory=mine:tiny", "+model.args.width=4", "batch_size=16", "epochs=6")
    data = ("dataset=custom", "dataset.factory=mine:stripes", "dataset.resolution=16", "augment=none", "run_dir=run")
    done = forked(*options, *data)
    assert done.returncode == 0, done.stderr
    assert float(read_csv(tmp_path / "run/metrics.csv")[-1]["test_top1"]) >= 90
    again = forked("resume=run", "model.args.width=5", "model=custom", "model.factory=mine:tiny")
    assert again.returncode == 2


@pytest.mark.real_data
@pytest.mark.parametrize("network", ["v1", "v2", "v3_large", "v3_small"])
def test_every_network_learns_real_cifar10_images(
    forked: Command, tmp_path: Path, small_cifar10: Path, network: str
) -> None:
    done = forked(
        f"model={network}",
        f"dataset.root={small_cifar10}",
        "dataset.download=false",
        "dataset.max_per_class=100",
        "model.width_mult=0.25",
        "model.stride_plan=1",
        "batch_size=50",
        "optim.lr=0.02",
        "optim.sgd_lr=0.02",
        "epochs=2",
        "device.threads=1",
        "run_dir=run",
        prepare=partial(accept_small, small_cifar10),
    )
    assert done.returncode == 0, done.stderr
    first, second = read_csv(tmp_path / "run/metrics.csv")
    assert float(second["train_loss"]) < float(first["train_loss"]) < 3
