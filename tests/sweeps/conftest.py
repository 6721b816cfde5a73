"""Sweeps whose processes are forked: everything is imported already, so they start at once and can be killed often."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pytest

from mobilenet_train.machine import follow_parent
from mobilenet_train.sweeps import local_launcher, sweep
from mobilenet_train.sweeps.forecast import forecast
from tests.children import Child, Forked, mnet_train

TINY_SWEEP = (
    "-m",
    "dataset=digits",
    "model=v3_small",
    "model.stride_plan=imagenet",
    "dataset.max_per_class=8",
    "batch_size=16",
    "eval.batch_size=80",
    "device.threads=1",
    "epochs=1",
    "tensorboard=false",
    "log_every=1",
    "sweep=s",
    "slots=2",
)
Run = Callable[..., Child]


def fork_job(arguments: Sequence[str], stdout: IO[str], env: dict[str, str], **_: object) -> Forked:
    """As `spawn`, for the command alone."""

    def job() -> None:
        follow_parent(parent)
        mnet_train(*arguments[2:])()

    parent = os.getpid()
    return Forked(job, env, stdout)


def fork_jobs() -> None:
    """In the sweep's process: jobs are forked, and measured where they are."""
    local_launcher.spawn = fork_job  # type: ignore[assignment]
    sweep.forecast_all = lambda configs, _slots: [forecast(config, timed=False) for config in configs]


@pytest.fixture
def run_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts `mnet-train ARGUMENTS` in an empty folder, in a child process with forked jobs."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: Child(tmp_path / "output", mnet_train(*arguments, prepare=fork_jobs))
