"""Child processes that never outlive the sweep, and never get its terminal's Ctrl-C behind its back."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from mobilenet_train.machine import follow_parent, usable_cores, visible_gpus


@dataclass(frozen=True)
class Slots:
    """How many jobs run at once, with how many threads each; with GPUs, each slot has one of them."""

    count: int
    threads: int
    gpus: list[str]

    def environment(self, slot: int) -> dict[str, str]:
        """The variables of a job in that slot."""
        chosen = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        return {**os.environ, **chosen}


def make_slots(wanted: int | str, jobs: int, device: str, threads: int | None) -> Slots:
    """`wanted` jobs at once; auto: one a GPU, or as many as have cores for their threads (one, unless set)."""
    gpus = [] if device == "cpu" else visible_gpus()
    cores = usable_cores()
    most = wanted if isinstance(wanted, int) else len(gpus) or cores // (threads or 1)
    count = max(1, min(most, jobs))
    return Slots(count, threads or max(1, cores // count), gpus)


def spawn(arguments: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    """Starts `python ARGUMENTS` in a session of its own; no module of the current folder hides one of Python's (-P).

    On Linux it gets SIGTERM when this process dies, however it dies: a run then saves its state and leaves.
    """
    command, follow = [sys.executable, "-P", *arguments], partial(follow_parent, os.getpid())
    return subprocess.Popen(command, text=True, start_new_session=True, preexec_fn=follow, **options)
