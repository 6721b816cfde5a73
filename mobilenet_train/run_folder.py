"""The run folder: made for one run alone, locked while it trains, self-describing."""

import fcntl
import os
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import IO

from omegaconf import OmegaConf

from mobilenet_train.config import TrainConfig
from mobilenet_train.errors import RunError

LEFT_BY_A_KILLED_START = {"lock", "checkpoints", "overrides.yaml", "config.yaml.tmp"}


def create(config: TrainConfig, overrides: list[str]) -> tuple[Path, IO[str]]:
    """Makes a new folder, `run_dir` or one in `outputs`, and locks it; config.yaml is written last.

    Two runs that start in one second get two folders. Raises RunError if it can't be made or written.
    """
    try:
        folder = _make(config)
        (folder / "checkpoints").mkdir(exist_ok=True)
        held = lock(folder)
        OmegaConf.save(OmegaConf.create(overrides), folder / "overrides.yaml", resolve=False)
        write_config(folder, config)
    except OSError as error:
        key = "outputs" if config.run_dir is None else "run_dir"
        value = getattr(config, key)
        raise RunError(f"{key}={value}: the run folder can't be made: {error.strerror} ({error.filename})") from error
    return folder, held


def write_config(folder: Path, config: TrainConfig) -> None:
    """Writes config.yaml, whole or not at all."""
    temporary = folder / "config.yaml.tmp"
    OmegaConf.save(OmegaConf.create(asdict(config)), temporary)
    temporary.replace(folder / "config.yaml")


def _make(config: TrainConfig) -> Path:
    if config.run_dir is not None:
        folder = Path(config.run_dir).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if {path.name for path in folder.iterdir()} - LEFT_BY_A_KILLED_START:
            raise RunError(f"run_dir={config.run_dir} is not empty and holds no run; choose another folder")
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
        raise RunError(f"{folder} can't be written: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        raise RunError(f"{folder} is in use: process {file.read().strip() or '?'} is training in it") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
