"""What a run left behind, without its times, for comparing it with another run."""

import csv
import re
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mobilenet_train import checkpoint

TIMES = {"images_per_second", "seconds"}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def log_lines(folder: Path) -> list[str]:
    return [re.sub(r"^[-\d]+ [:\d]+", "", line) for line in (folder / "train.log").read_text().splitlines()]


def points(folder: Path) -> dict[str, list[tuple[int, float]]]:
    board = EventAccumulator(str(folder))
    board.Reload()
    tags = [tag for tag in board.Tags()["scalars"] if tag != "train/images_per_second"]
    return {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in tags}


def weights(folder: Path, name: str = "last.pt") -> dict[str, Any]:
    saved = checkpoint.load(folder / "checkpoints" / name)
    return {part: checkpoint.digest(saved[part]) for part in ("model", "ema", "optimizer", "best")}


def everything(folder: Path) -> dict[str, Any]:
    """All records at once: two runs are the same if these are."""
    return {
        "last": weights(folder),
        "best": weights(folder, "best.pt"),
        "metrics.csv": rows(folder),
        "train.log": log_lines(folder),
        "tensorboard": points(folder),
    }
