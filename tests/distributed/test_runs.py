"""Whole runs on several ranks: one folder, one voice, checkpoints that know nothing of ranks."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from mobilenet_train import checkpoint
from mobilenet_train.inference.evaluate import evaluate_run, load_test_data
from mobilenet_train.inference.loading import load_run
from mobilenet_train.runtime import set_up
from tests.conftest import RUN, TINY
from tests.records import rows

from .conftest import Group, Start

FACTORY = """
import os
import numpy as np
from mobilenet_train.data import ImageData

def photos():
    if os.environ["RANK"] == "1":
        raise ValueError("no photographs on this machine")
    images, labels = np.zeros((64, 16, 16), np.uint8), np.arange(64) % 2
    return ImageData(images, labels, images, labels, ["cat", "dog"])
"""


def predicted_alone(folder: Path) -> torch.Tensor:
    """The class of each test image, by one process."""
    run = load_run(folder)
    dataset = load_test_data(run, None, trust_factory=False)
    return next(evaluate_run(run, dataset, set_up(run.config.device), flip=False)).predicted


def messages(group: Group) -> list[str]:
    assert "Traceback" not in group.text(), group.text()
    return [line for line in group.text().splitlines() if line.startswith("mnet-train: ")]


def test_two_ranks_leave_one_folder_and_one_log(start_command: Start, tmp_path: Path) -> None:
    group = start_command(2, *TINY, "ema.decay=0.9", "dataset.val_fraction=0.2", "budget=30m")
    assert group.wait() == [0, 0], group.text()
    (folder,) = (tmp_path / "outputs").iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["environment"]["ranks"]) == ("finished", 2)
    assert [row["epoch"] for row in rows(folder)] == ["0", "1"]
    assert "2 ranks" in group.text(0)
    assert group.text(1) == ""


def test_a_signal_to_one_rank_stops_all_and_any_number_of_ranks_goes_on(start_command: Start, tmp_path: Path) -> None:
    log = tmp_path / "run/train.log"
    group = start_command(2, *RUN, "epochs=4")
    group.wait_for(lambda: log.exists() and "epoch: 1/" in log.read_text())
    group.kill(signal.SIGTERM, 1)
    group.wait()
    assert group.codes[1] == 143
    assert "mnet-train resume=run" in group.text(0)
    saved, _ = checkpoint.load_latest(tmp_path / "run/checkpoints")
    done = saved["progress"]["step"]
    assert 0 < done < 4 * 5
    for size in (1, 3):
        folder = tmp_path / f"on{size}"
        shutil.copytree("run", folder)
        again = start_command(size, f"resume={folder}")
        assert again.wait() == [0] * size, again.text()
        assert f"(update {done})" in again.text(0)
        assert f"ranks 2 -> {size}" in again.text(0)
        assert [row["epoch"] for row in rows(folder)] == [str(epoch) for epoch in range(4)]
        finished, _ = checkpoint.load_latest(folder / "checkpoints")
        same = finished["test_predictions"] == predicted_alone(folder)
        assert same.double().mean() > 0.97, "up to rounding, all ranks' predictions are there"
        assert (finished["progress"]["step"], finished["sums"]["seen"]) == (4 * 5, 5 * 32)


@pytest.mark.parametrize(
    ("size", "option", "words"),
    [
        (3, "optim.lr=-1", "optim.lr=-1.0 is not allowed"),
        (3, "batch_size=4", "batch_size=4 is the global batch and too small for 3 ranks"),
        (2, "run_dir=full", "run_dir=full is not empty"),
    ],
)
def test_a_refusal_is_said_once(start_command: Start, tmp_path: Path, size: int, option: str, words: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").write_text("mine")
    group = start_command(size, *TINY, option)
    codes = group.wait()
    (message,) = messages(group)
    assert message.startswith(f"mnet-train: rank 0: {words}")
    assert codes[0] in (1, 2)
    assert not (tmp_path / "outputs").exists()


def test_an_error_of_one_rank_is_said_once_with_its_number(start_command: Start, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(FACTORY)
    group = start_command(
        2, "dataset=custom", "dataset.factory=mine:photos", "dataset.resolution=16", "model=v3_small", "batch_size=32"
    )
    group.wait()
    (message,) = messages(group)
    assert message.startswith("mnet-train: rank 1: dataset.factory=mine:photos failed")
    assert not (tmp_path / "outputs").exists()


def test_a_killed_rank_ends_the_others_with_one_message(start_command: Start, tmp_path: Path) -> None:
    log = tmp_path / "run/train.log"
    group = start_command(2, *RUN, "epochs=400")
    group.wait_for(lambda: log.exists() and "epoch: 1/" in log.read_text())
    group.kill(signal.SIGKILL, 1)
    assert group.wait() == [1, -signal.SIGKILL]
    (message,) = messages(group)
    assert message.startswith("mnet-train: rank 0: another rank was killed")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["status"] == "failed"
    assert "another rank was killed" in summary["reason"]
