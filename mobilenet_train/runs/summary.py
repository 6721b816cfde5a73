"""What a run leaves on record about itself: summary.json, and what the trackers need to know beforehand."""

import platform
import resource
import shlex
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenet_train.config.checked import flat_values
from mobilenet_train.config.overrides import typed_keys
from mobilenet_train.config.saved import read_words
from mobilenet_train.config.schema import budget_seconds, is_free
from mobilenet_train.console import printable
from mobilenet_train.machine import describe_machine
from mobilenet_train.runs.announce import plan_rows
from mobilenet_train.runs.build import RunParts
from mobilenet_train.runs.folder import write_summary
from mobilenet_train.runtime import machine_of
from mobilenet_train.tracking import RunDescription
from mobilenet_train.version import __version__

PREVIEW_IMAGES = 64
HPARAMS = (  # of every run, for TensorBoard's table; what the command line names comes with them
    *("model.name", "model.width_mult", "dataset.name", "dataset.resolution", "augment.name", "optim.name"),
    *("optim.lr", "batch_size", "epochs", "seed"),
)
TORCHVISION = version("torchvision")  # from its metadata: importing it takes seconds


def run_description(parts: RunParts, folder: Path) -> RunDescription:
    """What the trackers need to know of the run."""
    config, plan = parts.config, parts.plan
    words = read_words(folder)
    typed = frozenset(typed_keys(words))
    shown = {*HPARAMS, *typed}
    values = [(key, value) for key, value in flat_values(config).items() if key in shown and not is_free(key)]
    hparams = {key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in values}
    return RunDescription(
        folder=folder,
        title=config.title,
        machine=machine_of(parts.runtime.device),
        card=card(["mnet-train", *words], plan_rows(parts)),
        epochs=plan.epochs(parts.state.updates),
        updates_per_epoch=plan.updates_per_epoch,
        updates=parts.state.updates,
        hparams=hparams,
        typed=typed,
        val=parts.dataset.val is not None,
        tensorboard=config.tensorboard,
    )


def card(command: Sequence[str], plan: Sequence[tuple[str, str]]) -> str:
    """Command and plan in Markdown."""
    rows = "\n".join("| " + " | ".join(printable(cell).replace("|", r"\|") for cell in row) + " |" for row in plan)
    return f"    {printable(shlex.join(command))}\n\n| plan | |\n|---|---|\n{rows}\n"


def preview(parts: RunParts) -> Tensor:
    """The first augmented training images (N, 3, R, R), 0..1, as the network will see them."""
    train = parts.batches.train
    images, _ = next(train.epoch(0))
    return train.prepare.shown(images[:PREVIEW_IMAGES]).cpu()


def summarise(parts: RunParts, folder: Path, status: str, wall_seconds: float, reason: str | None = None) -> None:
    """Writes summary.json."""
    state, runtime, cost = parts.state, parts.runtime, parts.cost
    last = state.history[-1] if state.history else None
    cuda = runtime.device.type == "cuda"
    unit = 1 if sys.platform == "darwin" else 1024  # of what the system says
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    chosen_on = "hold-out split" if parts.dataset.val else "test set"
    seconds = sum(result.seconds for result in state.history)
    values: dict[str, Any] = {
        "status": status,
        "reason": reason,
        "epochs_done": state.epoch,
        "updates_done": state.step,
        "final": asdict(last) if last else None,
        "best": {**asdict(state.best), "chosen_on": chosen_on} if state.best else None,
        "budget_seconds": parts.config.budget and budget_seconds(parts.config.budget),
        "elapsed_seconds": round(state.elapsed, 3) if parts.config.budget else None,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        "images_per_second": statistics.median(r.images_per_second for r in state.history) if last else None,
        "training_seconds": round(seconds, 3),
        "wall_seconds_this_process": round(wall_seconds, 3),
        "peak_memory_bytes": torch.cuda.max_memory_reserved() if cuda else resident,
        "memory_kind": "CUDA allocator" if cuda else "resident set",
        "environment": parts.environment,
        "versions": {
            "mnet-train": __version__,
            "torch": str(torch.__version__),
            "torchvision": TORCHVISION,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "machine": describe_machine(),
        "git_commit": git_commit(),
        "data_fingerprint": parts.dataset.fingerprint,
    }
    write_summary(folder, values)


def git_commit() -> str | None:
    """The commit of the code that runs, where it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None
