"""Findings 8 to 10: nothing hangs: a small /dev/shm, threads without end, pipes, a measurement."""

import ctypes
import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mobilenet_train import checkpoint
from mobilenet_train.data import stored
from mobilenet_train.data.listing import BadImageError
from mobilenet_train.errors import RunError
from mobilenet_train.inference.prediction import _read
from mobilenet_train.sweeps import forecast
from mobilenet_train.sweeps.processes import make_slots
from tests.attack.helpers import DIGITS, NETWORK, alive, children_of
from tests.children import Child
from tests.conftest import configure
from tests.data.image_files_for_tests import tree
from tests.tools import tool

__all__ = ["tool"]

CLONE_NEWNS = 0x00020000  # linux/sched.h
UNWATCHED = ("batch_size=16", "tensorboard=false", "device.threads=1")
Tool = Callable[..., int]
Capture = pytest.CaptureFixture[str]


def streaming(tmp_path: Path) -> tuple[str, ...]:
    """The arguments of a run whose images are decoded by two workers in every epoch."""
    data = ("dataset=folder", f"dataset.root={tree(tmp_path / 'images', 16, 16)}", "dataset.resolution=16")
    cached = ("dataset.cache=off", "dataset.workers=2", f"dataset.cache_dir={tmp_path / 'cache'}")
    return (*NETWORK, *UNWATCHED, *data, *cached, "run_dir=run", "epochs=1")


# --- shared memory


def small_shared_memory(size: str) -> None:
    """Gives this process alone a /dev/shm of that size."""
    multiprocessing.set_start_method("fork", force=True)  # Linux's, which the server of this process has changed
    if ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        os._exit(77)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"], check=True)


def without_a_check() -> None:
    """As if the room were lost between the check and the batch."""
    small_shared_memory("256k")
    stored.free_shared_memory = lambda: None


def outcome(child: Child) -> tuple[int, str]:
    code = child.wait(60)
    if code == 77:
        pytest.skip("a mount namespace is not permitted here")
    assert "Traceback" not in child.text()
    return code, child.text()


@pytest.mark.parametrize(
    ("size", "side", "said"),
    [
        ("64k", 16, "room for 0.1 MB only, so the run itself decodes the images"),
        ("64m", 560, "room for 64.0 MB only, so 1 of the dataset.workers=2 processes decode the images"),
    ],
    ids=["64k", "64m"],
)
def test_a_small_dev_shm_takes_fewer_workers_and_one_line(
    size: str, side: int, said: str, start: Callable[..., Child], tmp_path: Path
) -> None:
    child = start(*streaming(tmp_path), f"dataset.store_size={side}", prepare=partial(small_shared_memory, size))
    code, text = outcome(child)
    assert (code, " ".join(text.split()).count(said)) == (0, 1), text


def test_a_dev_shm_that_fills_up_ends_the_run_with_a_reason(start: Callable[..., Child], tmp_path: Path) -> None:
    child = start(*streaming(tmp_path), "dataset.store_size=160", prepare=without_a_check)
    code, text = outcome(child)
    older = "a process that decodes images was killed"  # torch 2.9 finds out by a bus error in it
    assert (code, text.count("/dev/shm has no room for a batch any more") + text.count(older)) == (1, 1), text


def hang_in_workers() -> None:
    multiprocessing.set_start_method("fork", force=True)
    stored.decode = lambda *_: time.sleep(1000)  # type: ignore[assignment]


def test_sigterm_ends_a_run_whose_workers_hang_and_saves_it(start: Callable[..., Child], tmp_path: Path) -> None:
    child = start(*streaming(tmp_path), prepare=hang_in_workers)
    child.wait_for(lambda: (tmp_path / "run/train.log").exists())
    child.wait_for(lambda: len(children_of(child.pid)) >= 2)
    pids = children_of(child.pid)
    child.kill(signal.SIGTERM)
    assert child.wait(20) == 128 + signal.SIGTERM, child.text()
    assert checkpoint.load(tmp_path / "run/checkpoints/last.pt")["progress"]["step"] == 0
    assert not any(alive(pid) for pid in pids)


# --- threads, pipes, and what hangs


@pytest.mark.parametrize(
    "words",
    ["mnet-predict RUN x.jpg", "mnet-eval RUN", "mnet-bench", "mnet-plan", "mnet-bench --threads 1"],
)
def test_every_tool_has_the_limit_of_device_threads(words: str, tool: Tool, capsys: Capture) -> None:
    assert tool(*words.split(), "--threads", "1025") == 2
    message = capsys.readouterr().err
    assert "--threads: 1025 is not a whole number from 1 to 1024" in message
    assert message.count("\n") == 1


def test_a_pipe_or_device_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path, tool: Tool, capsys: Capture) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.jpg").symlink_to("pipe")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    signal.alarm(20)  # ends the whole session, should it block
    assert tool("mnet-predict", tmp_path / "pipe", __file__) == 1
    assert "pipe is damaged or not a checkpoint: [Errno 22] it is not a regular file" in capsys.readouterr().err
    for name in ("pipe", "link.jpg", "zero.jpg"):
        with pytest.raises(BadImageError, match="not a regular file"):
            _read(tmp_path / name)
    signal.alarm(0)


def test_a_measurement_that_hangs_is_ended_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    def hang(_: object, **pipes: int) -> "subprocess.Popen[str]":
        started.append(subprocess.Popen(["sleep", "60"], text=True, **pipes))
        return started[-1]

    monkeypatch.setattr(forecast, "spawn", hang)
    monkeypatch.setattr(forecast, "PATIENCE", 0.2)
    configs = [configure(*NETWORK, *DIGITS)] * 2
    with pytest.raises(RunError, match=r"cannot be measured: .*no sign of life for 0\.2 s.*dry_run=true"):
        forecast.forecast_all(configs, make_slots(2, 2, "cpu", 1))
    assert [child.poll() for child in started] == [-signal.SIGKILL] * 2


def test_a_slow_measurement_that_gives_signs_of_life_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '[{"parameters": 1, "multiply_adds": 2, "seconds": 3.0}]'
    script = f"for i in 1 2 3 4 5 6; do echo .; sleep 0.2; done; echo '{answer}'"
    monkeypatch.setattr(
        forecast, "spawn", lambda _, **pipes: subprocess.Popen(["sh", "-c", script], text=True, **pipes)
    )
    monkeypatch.setattr(forecast, "PATIENCE", 0.6)
    assert forecast.forecast_all([configure(*NETWORK, *DIGITS)], make_slots(1, 1, "cpu", 1)) == [
        forecast.Forecast(1, 2, 3.0)
    ]
