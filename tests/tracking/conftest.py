"""A made-up run: two updates an epoch, one Progress each."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from mobilenet_train.results import EpochResult, EpochStarted, Event, Progress, Score
from mobilenet_train.tracking import RunDescription, Trackers

EPOCHS = 3
UPDATES_PER_EPOCH = 2
Open = Callable[..., Trackers]


def result(epoch: int, **changes: object) -> EpochResult:
    start = 1703262086.0 + 60 * epoch
    plain = EpochResult(
        epoch=epoch,
        step=(epoch + 1) * UPDATES_PER_EPOCH,
        started_at=start,
        trained_at=start + 27,
        finished_at=start + 32,
        last_batch_loss=1.077600359916687,
        last_batch_top1=53.125,
        train=Score(1.58124, 42.22),
        test=Score(1.21834, 57.58 + epoch),
        val=None,
        ema_test=None,
        learning_rate=0.1,
        images_per_second=412.34,
        seconds=26.5,
        evaluation_seconds=5.0,
    )
    return replace(plain, **changes)


def progress(step: int) -> Progress:
    epoch, batch = divmod(step - 1, UPDATES_PER_EPOCH)
    return Progress(epoch, batch + 1, step, EPOCHS * UPDATES_PER_EPOCH, 2.0 / step, Score(1.5, 40.0), 0.1, 400.0)


def epoch_events(epoch: int) -> list[Event]:
    finished = result(epoch)
    steps = range(epoch * UPDATES_PER_EPOCH + 1, finished.step + 1)
    return [EpochStarted(epoch, 0, finished.started_at), *map(progress, steps), finished]


def record_all(trackers: Trackers, events: Sequence[Event]) -> None:
    for event in events:
        trackers.record(event)


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines give local time: let that be UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.fixture
def description(tmp_path: Path) -> RunDescription:
    return RunDescription(
        folder=tmp_path,
        title="MobileNetV3-Small on CIFAR-10",
        machine="a CPU",
        card="mnet-train model=v3_small",
        epochs=EPOCHS,
        updates_per_epoch=UPDATES_PER_EPOCH,
        updates=EPOCHS * UPDATES_PER_EPOCH,
        hparams={"lr": 0.1, "model": "v3_small", "nesterov": True, "batch_size": 128},
        typed=frozenset({"model"}),
        val=False,
        tensorboard=False,
    )


@pytest.fixture
def open_trackers(description: RunDescription) -> Open:
    """Opens the run's trackers, new or resumed, with the terminal's output in a string."""

    def opened(history: Sequence[EpochResult] = (), step: int = 0, tensorboard: bool = False) -> Trackers:
        run = replace(description, tensorboard=tensorboard)
        return Trackers(run, list(history), step, Console(file=io.StringIO()))

    return opened
