"""Errors from deep inside that a setting can mend, out of memory, a killed worker: each a RunError that names it."""

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from mobilenet_train.config.resume import factories
from mobilenet_train.config.schema import TrainConfig
from mobilenet_train.data.stored import WORKER_KILLED
from mobilenet_train.errors import RunError

CPU_OUT_OF_MEMORY = ("can't allocate memory", "could not create a primitive")  # torch's allocator, and oneDNN
ADVICE = (
    "lower batch_size (optim.accumulate keeps the update's size), eval.batch_size or dataset.resolution, or start more "
    "ranks, which share a batch"
)


@contextmanager
def memory_advice(advice: str = ADVICE) -> Iterator[None]:
    """Turns running out of memory, on a GPU or the host, into a RunError that says which setting to change."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not known and not any(said in str(error) for said in CPU_OUT_OF_MEMORY):
            raise
        raise RunError(f"out of memory: {advice}") from error


def resume_command(config: TrainConfig, folder: Path) -> str:
    """What to type to continue the run in `folder`."""
    plain = re.fullmatch(r"[\w./+-]+", str(folder))
    word = f"resume={folder}" if plain else shlex.quote("resume='{}'".format(str(folder).replace("'", "\\'")))
    return f"mnet-train {word}" + (" trust_factory=true" if factories(config) or config.trust_factory else "")


@contextmanager
def worker_advice(command: str) -> Iterator[None]:
    """Turns the death of a process that decodes images into a RunError that names the command to resume with."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(WORKER_KILLED):
            raise
        raise RunError(
            f"a process that decodes images was killed ({str(error).splitlines()[0]}), often by the system for lack "
            "of memory: try fewer dataset.workers, a lower batch_size, or dataset.cache=disk, which needs none. Resume "
            "with:",
            f"  {command}",
        ) from error
