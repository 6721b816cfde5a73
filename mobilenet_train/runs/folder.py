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
from mobilenet_train.disk import expanded, own, read_json, regular, verified, with_checksum, write_text, writing
from mobilenet_train.errors import RunError

TRIES = 3
SUMMARY_NUMBERS = ("parameters", "multiply_adds", "images_per_second", "training_seconds")  # that tables show


def create(config: TrainConfig, words: Sequence[str]) -> tuple[Path, IO[str]]:
    """Makes a new folder, `run_dir` or one in `outputs`, and locks it.

    It is a run from the moment that it has a config.yaml; what a start that was killed before left behind ends in .tmp.
    Two runs that start in one second get two folders. Raises RunError if it cannot be made or written.
    """
    try:
        folder = _make(config)
        held = lock(folder, f"{_place(config)}: ")
        if others := _others(folder):  # since it was looked at first
            raise _not_ours(folder, others)
        (folder / "checkpoints").mkdir(exist_ok=True)
        typed = folder / "overrides.yaml"
        write_text(typed.with_suffix(".yaml.tmp"), OmegaConf.to_yaml(OmegaConf.create(list(words))))
        write_config(folder, Saved(config))
        typed.with_suffix(".yaml.tmp").replace(typed)
    except OSError as error:
        reason = f"the run folder cannot be made: {error.strerror} ({error.filename})"
        raise RunError(f"{_place(config)}: {reason}") from error
    return folder, held


def _place(config: TrainConfig) -> str:
    return f"outputs={config.outputs}" if config.run_dir is None else f"run_dir={config.run_dir}"


def write_config(folder: Path, saved: Saved) -> None:
    """Writes config.yaml, whole or not at all."""
    write_text(folder / "config.yaml", OmegaConf.to_yaml(saved.record))


def _make(config: TrainConfig) -> Path:
    if config.run_dir is not None:
        folder = expanded(config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        others = _others(folder)
        if others and not ("config.yaml" in others and (folder / "lock").exists()):  # another start, whose lock says so
            raise _not_ours(folder, others)
        return folder
    parent = expanded(config.outputs)
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


def _others(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not _left_by_a_killed_start(path))


def _not_ours(folder: Path, others: Sequence[str]) -> RunError:
    if "config.yaml" in others:
        return RunError(f"run_dir={folder} was empty and now has a run: the same command continues it")
    more = " and more" if len(others) > 3 else ""
    return RunError(
        f"run_dir={folder} is not empty and is not a run: it holds {', '.join(others[:3])}{more}; choose another folder"
    )


def _left_by_a_killed_start(path: Path) -> bool:
    """Before config.yaml is there, a start of ours has made these and nothing else."""
    if path.name == "checkpoints":
        return path.is_dir() and not any(path.iterdir())
    return path.name == "lock" or path.suffix == ".tmp"


def lock(folder: Path, said: str = "") -> IO[str]:
    """Holds the folder for this process until it ends, however it ends (the system releases the lock).

    Raises RunError naming the process that trains in it; a message that it cannot be written begins with `said`.
    """
    try:
        file = open(folder / "lock", "a+", opener=own)  # noqa: SIM115 (held by the caller)
    except OSError as error:
        raise RunError(f"{said}{error.filename} cannot be written: {error.strerror}") from error
    for _ in range(TRIES):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.05)  # `holder` has it for a moment
    else:
        file.seek(0)
        raise RunError(f"{folder} is in use by process {file.read().strip() or '?'}, which is training in it")
    with writing(folder / "lock"):
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
    return file


def holder(folder: Path) -> str | None:
    """The id of the process that holds the folder's lock now, None if there is none."""
    try:
        with open(folder / "lock", opener=regular) as file:
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
    write_text(folder / "summary.json", json.dumps(with_checksum(values), indent=2) + "\n")


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises RunError naming the file if there is no summary, or none whose parts are as `summarise` writes them."""
    path = folder / "summary.json"
    values = read_json(path)
    try:
        values = verified(values)
        _check_summary(values)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{path} is damaged ({reason}): delete it, and resuming the run writes it again") from error
    return values


def _check_summary(values: Any) -> None:
    """Takes what the readers of a summary take; a run that has ended has all of it. Raises what that raises."""
    status, final, best = values["status"], values.get("final"), values.get("best")
    ended = status == "finished"
    numbers = [values[key] if ended else values.get(key) for key in SUMMARY_NUMBERS]
    texts = [status]
    if ended or (final and final["test"]):
        numbers += [final["test"]["top1"], (final.get("val") or final["test"])["top1"]]
    if best or ended:
        numbers.append(best["top1"])
        texts.append(best["chosen_on"])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a text is none")
    if not all(isinstance(number, int | float) or (number is None and not ended) for number in numbers):
        raise ValueError("a number is none")
