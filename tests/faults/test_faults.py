"""Full disks, spoiled folders, bad numbers, little memory, closed terminals: nothing good is lost, and it is said."""

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from itertools import count
from pathlib import Path
from select import select
from typing import Any

import pytest

from mobilenet_train import checkpoint
from mobilenet_train.results import Event
from mobilenet_train.tracking import Trackers
from tests.children import NOBODY, Child
from tests.conftest import RUN, TINY
from tests.records import everything, rows

pytestmark = pytest.mark.faults
Command = Callable[..., Child]


def summary(folder: Path) -> dict[str, object]:
    return json.loads((folder / "summary.json").read_text())


def one_line(child: Child) -> str:
    lines = [line for line in child.text().splitlines() if line.startswith("mnet-train: ")]
    assert len(lines) == 1, child.text()
    assert "Traceback" not in child.text()
    return lines[0]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MB; room for about one checkpoint and the records."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not permitted here; the file-size test below still runs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_later(command: Command, small_disk: Path) -> None:
    whole = command(*TINY, "run_dir=whole", "epochs=3")
    assert whole.wait() == 0, whole.text()
    options = (*TINY, f"run_dir={small_disk}/run", "epochs=3")
    full = command(*options)
    assert full.wait() == 1, full.text()
    assert "No space left" in one_line(full) or "could not be written" in one_line(full)
    saved, _ = checkpoint.load_latest(small_disk / "run/checkpoints")
    assert saved["progress"]["step"] > 0
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    again = command(*options)
    assert again.wait() == 0, again.text()
    assert everything(small_disk / "run") == everything(Path("whole"))


def test_a_limit_on_file_sizes_is_reported_and_the_summary_says_failed(command: Command, tmp_path: Path) -> None:
    child = command(*RUN, prepare=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (600_000, 600_000)))
    assert child.wait() == 1, child.text()
    assert "checkpoint could not be written" in one_line(child)
    assert summary(tmp_path / "run")["status"] == "failed"
    assert "could not be written" in str(summary(tmp_path / "run")["reason"])


def test_a_log_deleted_under_the_run_is_written_again_whole(command: Command, tmp_path: Path) -> None:
    child = command(*RUN, "epochs=12")
    log, table = tmp_path / "run/train.log", tmp_path / "run/metrics.csv"
    child.wait_for(lambda: table.exists() and len(rows(tmp_path / "run")) >= 2)
    log.unlink()
    table.unlink()
    assert child.wait() == 0, child.text()
    assert len(rows(tmp_path / "run")) == 12
    assert len(log.read_text().splitlines()) == 3 * 12 + 1


def record_as_nobody(run: Path) -> None:
    """From the third epoch on the records are written by an unprivileged user, to whom the folder belongs."""
    record = Trackers.record

    def change_and_record(trackers: Trackers, event: Event) -> None:
        if os.geteuid() == 0 and event.epoch == 2:
            for path in (run, *run.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            os.setuid(NOBODY)
        record(trackers, event)

    Trackers.record = change_and_record  # type: ignore[method-assign]


def test_a_folder_made_read_only_stops_the_run_with_the_path(command: Command) -> None:
    """As an unprivileged user, since root may write anywhere; from the third epoch on, when all code is loaded."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    run = place / "run"

    child = command(*TINY, f"run_dir={run}", "epochs=500", prepare=partial(record_as_nobody, run))
    child.wait_for(lambda: (run / "metrics.csv").exists() and len(rows(run)) >= 4)
    for folder in (run / "checkpoints", run):
        folder.chmod(0o555)
    assert child.wait() == 1, child.text()
    assert str(run) in one_line(child)
    assert "Permission denied" in one_line(child)
    assert checkpoint.load_latest(run / "checkpoints")[0]["progress"]["step"] > 0
    shutil.rmtree(place)


def test_a_run_recovers_from_bad_numbers_with_a_lower_rate_if_asked_to(command: Command, tmp_path: Path) -> None:
    wild = ("optim.lr=1000", "optim.schedule.warmup=0", "optim.schedule.decay=constant", "optim.clip_norm=null")
    child = command(*RUN, *wild, "recover.attempts=3", "recover.factor=0.0001")
    assert child.wait() == 0, child.text()
    assert "Going back to update 0" in child.text()
    assert summary(tmp_path / "run")["status"] == "finished"
    assert checkpoint.load(tmp_path / "run/checkpoints/last.pt")["progress"]["recoveries"] == 1
    assert float(rows(tmp_path / "run")[-1]["learning_rate"]) == pytest.approx(0.1)


def test_bad_numbers_stop_a_run_and_no_checkpoint_holds_them(command: Command, tmp_path: Path) -> None:
    child = command(
        *RUN, "optim.lr=1000", "optim.schedule.warmup=0", "checkpoint.every_minutes=0.0001", "log_every=1000"
    )
    assert child.wait() == 1, child.text()
    assert "learning rate" in one_line(child)
    assert summary(tmp_path / "run")["status"] == "failed"
    for path in (tmp_path / "run/checkpoints").iterdir():
        saved = checkpoint.load(path)
        assert all(bool(v.isfinite().all()) for v in saved["model"].values() if v.is_floating_point())


def limit_memory() -> None:
    """2.5 GB more of addresses than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    address_space = pages * resource.getpagesize() + 2_500_000_000
    resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))


def test_too_little_memory_says_which_setting_to_change(command: Command) -> None:
    child = command(*RUN, "dataset.resolution=512", "batch_size=150", prepare=limit_memory)
    assert child.wait() == 1, child.text()
    assert "out of memory: lower batch_size" in one_line(child)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_saves_and_exits_with_its_number(command: Command, tmp_path: Path, number: int, code: int) -> None:
    child = command(*RUN, "epochs=500")
    child.wait_for(lambda: (tmp_path / "run/metrics.csv").exists())
    child.kill(number)
    assert child.wait() == code, child.text()
    assert "mnet-train resume=run" in child.text()
    assert summary(tmp_path / "run")["status"] == "interrupted"


def hang(module: str, name: str, call: int) -> None:
    """From that call on, `module.name` takes a minute; the file `hanging` says when it has begun."""
    owner, calls = import_module(module), count(1)
    real = getattr(owner, name)

    def slow(*arguments: Any) -> Any:
        if next(calls) >= call:
            Path("hanging").touch()
            time.sleep(60)
        return real(*arguments)

    setattr(owner, name, slow)


@pytest.mark.parametrize(
    "place", [("mobilenet_train.training.fit", "train_update", 8), ("os", "link", 2)], ids=["training", "saving"]
)
def test_a_second_ctrl_c_leaves_at_once_and_harms_no_checkpoint(
    command: Command, tmp_path: Path, place: tuple[str, str, int]
) -> None:
    child = command(*RUN, "epochs=500", prepare=partial(hang, *place))
    child.wait_for(lambda: (tmp_path / "hanging").exists())
    child.kill(signal.SIGINT)
    time.sleep(0.5)
    assert child.ended() is None, "the first waits for the update or the checkpoint"
    began = time.monotonic()
    child.kill(signal.SIGINT)
    assert child.wait() == -signal.SIGINT
    assert time.monotonic() - began < 5
    assert checkpoint.load_latest(tmp_path / "run/checkpoints")[0]["progress"]["step"] > 0


def move_into_terminal(name: str) -> None:
    os.setsid()
    terminal = os.open(name, os.O_RDWR)  # the first that a session's leader opens is its controlling terminal
    for number in range(3):
        os.dup2(terminal, number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))  # the old ones are of files


def test_a_terminal_that_closes_ends_the_run_with_everything_saved(command: Command, tmp_path: Path) -> None:
    screen, terminal = pty.openpty()
    child = command(*RUN, "epochs=500", prepare=partial(move_into_terminal, os.ttyname(terminal)))
    deadline, shown = time.monotonic() + 120, b""
    while not (tmp_path / "run/metrics.csv").exists():
        assert child.ended() is None, shown.decode()
        assert time.monotonic() < deadline, shown.decode()
        if select([screen], [], [], 0.1)[0]:
            shown += os.read(screen, 4096)
    os.close(terminal)
    os.close(screen)
    assert child.wait() == 129
    assert summary(tmp_path / "run")["status"] == "interrupted"
    assert len(rows(tmp_path / "run")) >= 1


def test_more_epochs_need_a_constant_rate_or_a_new_schedule(command: Command, tmp_path: Path) -> None:
    first = command(*RUN)
    assert first.wait() == 0, first.text()
    refused = command("resume=run", "epochs=3")
    assert refused.wait() == 2
    assert "resume_schedule=restart" in one_line(refused)
    again = command("resume=run", "epochs=4", "resume_schedule=restart")
    assert again.wait() == 0, again.text()
    rates = [float(row["learning_rate"]) for row in rows(tmp_path / "run")]
    assert len(rates) == 4
    assert rates[2] > rates[1], "the rate has started anew"
    assert "schedule_from: 10" in (tmp_path / "run/config.yaml").read_text()


@pytest.mark.parametrize("spoiled", ["torn", "flipped", "code", "format", "foreign"])
def test_spoiled_checkpoints_are_named_and_never_run(
    command: Command, tmp_path: Path, spoiled: str, finished: Path
) -> None:
    import torch

    shutil.copytree(finished / "run", tmp_path / "run")
    (tmp_path / "run/summary.json").unlink()
    for path in (tmp_path / "run/checkpoints").glob("*.pt"):
        whole = path.read_bytes()
        if spoiled == "torn":
            path.write_bytes(whole[: len(whole) // 2])
        if spoiled == "flipped":
            middle = len(whole) // 2
            path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        if spoiled == "code":
            torch.save({"format": 1, "model": Hostile()}, path)
        if spoiled == "format":
            torch.save({"format": 0}, path)
        if spoiled == "foreign":
            torch.save({"state_dict": {}}, path)
    child = command("resume=run")
    assert child.wait() == 1, child.text()
    assert "run/checkpoints/last.pt" in one_line(child)
    assert not (tmp_path / "hacked").exists()


class Hostile:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch hacked",)
