"""SIGKILL at random moments: every resume succeeds, and the end is that of a run that was never killed."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mobilenet_train import checkpoint
from mobilenet_train.errors import RunError
from tests.children import Child
from tests.records import everything
from tests.small_cifar10 import accept_small

pytestmark = [pytest.mark.faults, pytest.mark.real_data]
KILLS = 12


def options(root: Path, folder: str) -> tuple[str, ...]:
    """Real CIFAR-10 photographs, EMA, warm-up, augmentation, dropout, and a checkpoint every few updates."""
    return (
        f"run_dir={folder}",
        f"dataset.root={root}",
        "dataset.download=false",
        "dataset.max_per_class=48",
        "dataset.val_fraction=0.1",
        "model=v3_small",
        "model.width_mult=0.1",
        "model.stride_plan=1",
        "batch_size=32",
        "epochs=6",
        "ema.decay=0.99",
        "log_every=3",
        "eval.batch_size=100",
        "checkpoint.every_minutes=0.001",
        "device.threads=1",
    )


def test_kills_at_random_moments_leave_no_trace(
    command: Callable[..., Child], tmp_path: Path, small_cifar10: Path
) -> None:
    def start(folder: str) -> Child:
        return command(*options(small_cifar10, folder), prepare=partial(accept_small, small_cifar10))

    undisturbed = start("whole")
    undisturbed.wait_for(lambda: "run folder:" in undisturbed.text())
    began = time.monotonic()
    assert undisturbed.wait() == 0, undisturbed.text()
    training = time.monotonic() - began
    draw = random.Random(20_261_122)
    moments: list[str] = []
    while len(moments) < KILLS:
        child = start("killed")
        if len(moments) % 5:  # most kills hit the training, some the start
            child.wait_for(lambda c=child: "run folder:" in c.text())
        time.sleep(draw.uniform(0, training / 11))
        if child.ended() is not None:
            break
        child.kill()
        assert child.wait() == -9
        after = time.monotonic() - child.started
        moments.append(f"kill {len(moments) + 1:2}: after {after:5.2f} s, {where(tmp_path / 'killed')}")
    last = start("killed")
    code = last.wait()
    print("\n".join(["", *moments]))
    assert code == 0, last.text()
    assert len(moments) == KILLS, "the run ended before it was killed often enough"
    assert everything(tmp_path / "killed") == everything(tmp_path / "whole")


def where(folder: Path) -> str:
    """What the kill left: the position of the newest whole checkpoint."""
    try:
        progress = checkpoint.load_latest(folder / "checkpoints")[0]["progress"]
    except RunError:
        return "before the first checkpoint"
    return f"the checkpoint is at epoch {progress['epoch']}, batch {progress['batch']}"
