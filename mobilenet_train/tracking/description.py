"""What the trackers need to know of a run beforehand."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunDescription:
    """A run as its records see it: plain numbers, no model and no configuration object."""

    folder: Path
    title: str
    machine: str  # that it trains on
    card: str  # command and plan in Markdown
    epochs: int
    updates_per_epoch: int
    updates: int
    hparams: dict[str, bool | int | float | str]  # those that runs are likely to differ in
    typed: frozenset[str]  # those that the command line named: TensorBoard shows them first
    val: bool  # a hold-out set is measured after each epoch
    tensorboard: bool
