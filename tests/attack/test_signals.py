"""Findings 11 and 12: a signal that is ignored stays ignored, and nobody outlives a launcher that is killed."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from mobilenet_train.runs import folder as run_folder
from tests.attack.helpers import DIGITS, NETWORK, alive
from tests.children import Child, end_with, mnet_train
from tests.sweeps.conftest import TINY_SWEEP, fork_jobs


def ignore_as_nohup_does() -> None:
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def ignored_in_a_sweep() -> None:
    ignore_as_nohup_does()
    fork_jobs()


@pytest.mark.parametrize(
    ("arguments", "prepare", "log"),
    [
        ((*NETWORK, *DIGITS, "run_dir=run", "epochs=8"), ignore_as_nohup_does, "run/train.log"),
        ((*TINY_SWEEP, "seed=0", "slots=1"), ignored_in_a_sweep, "outputs/s/*/train.log"),
    ],
    ids=["run", "sweep"],
)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(
    arguments: tuple[str, ...], prepare: Callable[[], None], log: str, start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start(*arguments, prepare=prepare)
    child.wait_for(lambda: any(tmp_path.glob(log)))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGHUP, signal.SIGINT):
        child.kill(number)
    assert child.wait(60) == 0, child.text()


def stand_in_for_torchrun(folder: Path) -> None:
    """Forks two ranks, leaves their ids in files, and waits."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for rank in range(2):
        pid = os.fork()
        if pid == 0:
            local = {"LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": store.port, "TORCHELASTIC_RUN_ID": 1}
            variables = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", **local}
            os.environ |= {name: str(value) for name, value in variables.items()} | {
                "TORCHELASTIC_USE_AGENT_STORE": "True"
            }
            end_with(mnet_train(*NETWORK, *DIGITS, "run_dir=run", "epochs=5000", "checkpoint.every_minutes=1000"))
        (folder / f"rank{rank}").write_text(str(pid))
    signal.pause()


def test_ranks_end_with_a_torchrun_that_is_killed_and_save_what_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    agent = Child(tmp_path / "output", partial(stand_in_for_torchrun, tmp_path))
    pids: list[int] = []
    try:
        agent.wait_for(lambda: (tmp_path / "run/metrics.csv").exists())
        pids = [int((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
        agent.kill(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, agent.text()
            time.sleep(0.02)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        agent.kill()
        agent.wait()
    assert run_folder.read_summary(tmp_path / "run")["status"] == "interrupted"
