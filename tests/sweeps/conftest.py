"""Sweeps whose processes are forked: everything is imported already, so they start at once and can be killed often."""

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import pytest
from hydra.core.global_hydra import GlobalHydra

from mobilenet_train.machine import follow_parent
from mobilenet_train.sweeps import local_launcher, sweep
from mobilenet_train.sweeps.forecast import forecast
from tests.children import Child, end_with, mnet_train

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


class ForkedJob:
    """What `spawn` returns, for a process that is forked instead of started."""

    def __init__(self, arguments: Sequence[str], stdout: IO[str], env: dict[str, str], **_: Any) -> None:
        parent = os.getpid()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._become_the_job(parent, arguments, stdout, env)

    def _become_the_job(self, parent: int, arguments: Sequence[str], stdout: IO[str], env: dict[str, str]) -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        follow_parent(parent)
        os.setsid()
        os.dup2(stdout.fileno(), 1)  # under sys.stdout
        os.dup2(stdout.fileno(), 2)
        os.environ.update(env)
        GlobalHydra.instance().clear()
        end_with(mnet_train(*arguments[2:]))

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def terminate(self) -> None:
        os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


def fork_jobs() -> None:
    """In the sweep's process: jobs are forked, and measured where they are."""
    local_launcher.spawn = ForkedJob  # type: ignore[assignment]
    sweep.forecast_all = lambda configs, _slots: [forecast(config, timed=False) for config in configs]


@pytest.fixture
def run_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Starts `mnet-train ARGUMENTS` in an empty folder, in a child process with forked jobs."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: Child(tmp_path / "output", mnet_train(*arguments, prepare=fork_jobs))
