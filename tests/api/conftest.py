"""Fixtures of all tests of the Python interface."""

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mobilenet_train.api import sweep as sweep_module
from tests.children import Child, mnet_train
from tests.sweeps.conftest import fork_jobs
from tests.tools import tool

__all__ = ["interruptible", "tool"]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, also where a shell started these tests in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class ForkedCommand:
    """What `spawn(["-m", "mobilenet_train", *words], ...)` returns, forked, as its jobs are.

    Not from this process: after a backward pass of a test before, torch refuses another in a fork.
    """

    def __init__(self, arguments: Sequence[str], **_: object) -> None:
        pipes = [os.pipe(), os.pipe()]
        ends = [Path(f"/proc/{os.getpid()}/fd/{into}") for _, into in pipes]
        self._child = Child(ends[0], mnet_train(*arguments[2:], prepare=fork_jobs), errors=ends[1])
        theirs = [Path(f"/proc/{self._child.pid}/fd/{number}") for number in (1, 2)]
        self._child.wait_for(lambda: [path.readlink() for path in theirs] == [path.readlink() for path in ends])
        for _, into in pipes:
            os.close(into)
        self.stdout, self.stderr = (os.fdopen(out) for out, _ in pipes)
        self.send_signal = self._child.kill

    def wait(self) -> int:
        self.returncode = self._child.wait()
        return self.returncode


@pytest.fixture
def forked_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "spawn", ForkedCommand)
