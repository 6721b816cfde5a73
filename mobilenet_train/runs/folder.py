"""The run folder: made for one run alone, locked while it trains, self-describing."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from omegaconf import OmegaConf

from mobilenet_train.config.saved import Saved
from mobilenet_train.config.schema import TrainConfig
from mobilenet_train.disk import write_text
from mobilenet_train.errors import RunError

LEFT_BY_A_KILLED_START = {"lock", "checkpoints", "overrides.yaml", "config.yaml.tmp", ".config.yaml.tmp"}
TRIES = 3


def create(config: TrainConfig, words: Sequence[str]) -> tuple[Path, IO[str]]:
    """Makes a new folder, `run_dir` or one in `outputs`, and locks it; config.yaml is written last.

    Two runs that start in one second get two folders. Raises RunError if it cannot be made or written.
    """
    try:
        folder = _make(config)
        (folder / "checkpoints").mkdir(exist_ok=True)
        held = lock(folder)
        OmegaConf.save(OmegaConf.create(list(words)), folder / "overrides.yaml", resolve=False)
        write_config(folder, Saved(config))
    except OSError as error:
        key = "outputs" if config.run_dir is None else "run_dir"
        value = getattr(config, key)
        raise RunError(f"{key}={value}: the run folder cannot be made: {error.strerror} ({error.filename})") from error
    return folder, held


def write_config(folder: Path, saved: Saved) -> None:
    """Writes config.yaml, whole or not at all."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(saved.record))


def _make(config: TrainConfig) -> Path:
    if config.run_dir is not None:
        folder = Path(config.run_dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if {path.name for path in folder.iterdir()} - LEFT_BY_A_KILLED_START:
            raise RunError(f"run_dir={config.run_dir} is not empty and is not a run; choose another folder")
        return folder
    parent = Path(config.outputs).expanduser()
    parent.mkdir(parents=True, exist_ok=True)
    stem = f"{datetime.now():%Y%m%d-%H%M%S}_{config.dataset.name}_{config.model.name}"
    number = 1
    while True:
        folder = parent / (stem if number == 1 else f"{stem}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def lock(folder: Path) -> IO[str]:
    """Holds the folder for this process until it ends, however it ends (the system releases the lock).

    Raises RunError naming the process that trains in it.
    """
    try:
        file = (folder / "lock").open("a+")
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from error
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.05)  # `holder` has it for a moment
    else:
        file.seek(0)
        raise RunError(f"{folder} is in use: process {file.read().strip() or '?'} is training in it")
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def holder(folder: Path) -> str | None:
    """The id of the process that holds the folder's lock now, None if there is none."""
    try:
        with (folder / "lock").open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return None
    except BlockingIOError:
        return (folder / "lock").read_text().strip() or "?"
    return None


def wait_until_free(folder: Path, say: Callable[[str], None]) -> None:
    """Returns once no process holds the folder's lock; first reports which one does, if any."""
    pid = holder(folder)
    if pid is None:
        return
    say(f"waiting for process {pid}, which still trains in {folder}")
    with (folder / "lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)


def write_summary(folder: Path, values: dict[str, Any]) -> None:
    """Writes `folder`/summary.json in one go: a reader finds the old summary or the new one, never a part."""
    write_text(folder / "summary.json", json.dumps(values, indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises RunError if there is no summary, or none that can be read."""
    path = folder / "summary.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {error}") from error
