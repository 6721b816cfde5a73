"""The command in a forked child: everything is imported already, so it starts at once and can be killed often."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.utils.tensorboard  # noqa: F401  (imported here, once, for all children)
from matplotlib.backends import backend_agg  # noqa: F401

import mobilenet_train.cli.session  # noqa: F401
from mobilenet_train.cli.train import main


class Child:
    """`mnet-train ARGUMENTS` in a forked process; its output goes to `output`. `prepare` runs in it first."""

    def __init__(self, output: Path, arguments: tuple[str, ...], prepare: Callable[[], None] = lambda: None) -> None:
        self.output = output
        self.output.write_text("")
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            self._become_the_command(arguments, prepare)

    def _become_the_command(self, arguments: tuple[str, ...], prepare: Callable[[], None]) -> None:
        code: int | str | None = 70
        try:
            signal.alarm(0)  # pytest-timeout's
            target = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
            os.dup2(target, 1)
            os.dup2(target, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            sys.argv = ["mnet-train", *arguments]
            prepare()
            main()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code if isinstance(code, int) else 0)

    def kill(self, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid, number)

    def ended(self) -> int | None:
        """The exit code, or None while it runs; negative for a signal."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if pid else None

    def wait(self, seconds: float = 240) -> int:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            code = self.ended()
            if code is not None:
                return code
            time.sleep(0.01)
        self.kill()
        os.waitpid(self.pid, 0)
        raise AssertionError(f"no end after {seconds} s: {self.text()}")

    def wait_for(self, condition: Callable[[], bool], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.01)

    def text(self) -> str:
        return self.output.read_text()


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Child]:
    """Starts the command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: Child(tmp_path / "output", arguments, **options)
