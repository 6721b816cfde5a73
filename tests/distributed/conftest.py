"""Ranks as child processes that start in a moment.

The test stands in for torchrun: it holds the store, sets the environment, and ends the others when one has failed.
"""

import pickle
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore

from tests.children import Child, mnet_train


class Group:
    """`size` ranks on this machine, which call `function()` (picklable) and leave its result or their output."""

    def __init__(self, folder: Path, size: int, function: Callable[[], Any]) -> None:
        self.folder, self.size = folder, size
        self.store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.codes: dict[int, int] = {}
        for rank in range(size):
            self.file(rank, "result").unlink(missing_ok=True)
        self.children = [self._start(rank, function) for rank in range(size)]

    def file(self, rank: int, kind: str) -> Path:
        return self.folder / f"rank{rank}.{kind}"

    def _start(self, rank: int, function: Callable[[], Any]) -> Child:
        local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": self.size, "MASTER_PORT": self.store.port}
        environment = {"RANK": rank, "WORLD_SIZE": self.size, "MASTER_ADDR": "127.0.0.1", **local}
        environment |= {"TORCHELASTIC_USE_AGENT_STORE": True, "GLOO_SOCKET_IFNAME": "lo"}
        call = partial(keep_result, function, self.file(rank, "result"))
        return Child(self.file(rank, "output"), call, **{name: str(value) for name, value in environment.items()})

    def poll(self) -> bool:
        """True once all have ended; the first failure ends the others with SIGTERM, as torchrun does it."""
        for rank, child in enumerate(self.children):
            code = child.ended() if rank not in self.codes else None
            if code is not None:
                self.codes[rank] = code
                if code != 0:
                    self.kill(signal.SIGTERM)
        return len(self.codes) == self.size

    def kill(self, number: int, *ranks: int) -> None:
        """Sends a signal to `ranks`, or to all that are left."""
        for rank in ranks or range(self.size):
            if rank not in self.codes:
                self.children[rank].kill(number)

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


def keep_result(function: Callable[[], Any], file: Path) -> None:
    file.write_bytes(pickle.dumps(function()))


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

    return lambda size, *arguments: start(size, mnet_train(*arguments))
