"""Ranks as forked children: everything is imported already, so a group of them starts in a moment.

The test stands in for torchrun: it holds the store, sets the environment, and ends the others when one has failed.
"""

import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.utils.tensorboard  # noqa: F401  (imported here, once, for all children)
from matplotlib.backends import backend_agg  # noqa: F401
from torch.distributed import TCPStore

import mobilenet_train.cli.session  # noqa: F401
from mobilenet_train.cli.train import main


class Group:
    """`size` ranks on this machine, each of which calls `function()` and leaves its result or its output."""

    def __init__(self, folder: Path, size: int, function: Callable[[], Any]) -> None:
        self.folder, self.size = folder, size
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.codes: dict[int, int] = {}
        for rank in range(size):
            self.file(rank, "result").unlink(missing_ok=True)
        self.pids = [self._fork(rank, function) for rank in range(size)]

    def file(self, rank: int, kind: str) -> Path:
        return self.folder / f"rank{rank}.{kind}"

    def _fork(self, rank: int, function: Callable[[], Any]) -> int:
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                self._become(rank)
                code = self._call(rank, function)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        return pid

    def _become(self, rank: int) -> None:
        signal.alarm(0)  # pytest-timeout's
        output = os.open(self.file(rank, "output"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
        local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": self.size, "MASTER_PORT": self.store.port}
        environment = {"RANK": rank, "WORLD_SIZE": self.size, "MASTER_ADDR": "127.0.0.1", **local}
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": True, "GLOO_SOCKET_IFNAME": "lo"}
        os.environ |= {name: str(value) for name, value in environment.items()}

    def _call(self, rank: int, function: Callable[[], Any]) -> int:
        try:
            result = function()
        except SystemExit as end:
            return int(end.code or 0)
        except BaseException:
            traceback.print_exc()
            return 71
        self.file(rank, "result").write_bytes(pickle.dumps(result))
        return 0

    def poll(self) -> bool:
        """True once all have ended; the first failure ends the others with SIGTERM, as torchrun does it."""
        for rank, pid in enumerate(self.pids):
            ended, status = os.waitpid(pid, os.WNOHANG) if rank not in self.codes else (0, 0)
            if ended:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
                if self.codes[rank] != 0:
                    self.kill(signal.SIGTERM)
        return len(self.codes) == self.size

    def kill(self, number: int, *ranks: int) -> None:
        """Sends a signal to `ranks`, or to all that are left."""
        for rank in ranks or range(self.size):
            if rank not in self.codes:
                os.kill(self.pids[rank], number)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                self.kill(signal.SIGKILL)
                raise AssertionError(f"no end after {seconds} s:\n{self.text()}")
            time.sleep(0.01)

    def wait(self) -> list[int]:
        """Exit codes by rank; negative for a signal."""
        self.wait_for(self.poll)
        return [self.codes[rank] for rank in range(self.size)]

    def results(self) -> list[Any]:
        """What `function` returned, by rank."""
        assert self.wait() == [0] * self.size, self.text()
        return [pickle.loads(self.file(rank, "result").read_bytes()) for rank in range(self.size)]

    def text(self, *ranks: int) -> str:
        """What `ranks`, or all, have printed."""
        return "".join(self.file(rank, "output").read_text() for rank in ranks or range(self.size))


Start = Callable[..., Group]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """`start(size, function)` starts ranks in an empty folder."""
    monkeypatch.chdir(tmp_path)
    groups: list[Group] = []

    def start_group(size: int, function: Callable[[], Any]) -> Group:
        groups.append(Group(tmp_path, size, function))
        return groups[-1]

    yield start_group
    for group in groups:
        if not group.poll():
            group.kill(signal.SIGKILL)
            group.wait()


@pytest.fixture
def start_command(start: Start) -> Start:
    """`start_command(size, *arguments)` starts `mnet-train ARGUMENTS` on each rank."""

    def command(size: int, *arguments: str) -> Group:
        def run() -> None:
            sys.argv = ["mnet-train", *arguments]
            main()

        return start(size, run)

    return command
