"""Ranks, processes that train one network together: which one this is, and which of them reports a failure.

Knows the environment that torchrun sets, and no torch; what passes between ranks is in `distributed.py`.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from mobilenet_train.errors import ConfigError

PATIENCE = 20.0  # seconds that a rank leaves to the first of its machine to report an error that both meet
_claim: Callable[[], bool] | None = None  # once the ranks have met: True for the first one that calls it


@dataclass(frozen=True)
class Ranks:
    """This process among `size` that train together; `local_rank` of `local_size` on this machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def leads(self) -> bool:
        """True in the one process that writes files and logs."""
        return self.rank == 0

    @property
    def label(self) -> str:
        """How an error message starts, so that its rank is known."""
        return f"rank {self.rank}: " if self.size > 1 else ""

    def rows(self, count: int) -> slice:
        """This rank's share of `count` rows; shares follow each other and differ by one at most."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)


ALONE = Ranks()


def ranks_from_environment() -> Ranks:
    """What torchrun (or a script for srun or mpirun) sets in RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE.

    Without the local ones all ranks are on one machine. Raises ConfigError for what is not such a number.
    """
    size = _number_in("WORLD_SIZE", 1, least=1)
    rank = _number_in("RANK", 0, below=size)
    local_size = _number_in("LOCAL_WORLD_SIZE", size, least=1)
    return Ranks(rank, size, _number_in("LOCAL_RANK", rank, below=local_size), local_size)


def _number_in(name: str, default: int, least: int = 0, below: int | None = None) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdecimal()) or int(text) < least or (below is not None and int(text) >= below):
        upper = "" if below is None else f" below {below}"
        raise ConfigError(
            f"{name}={text} in the environment is not a whole number from {least}{upper}: torchrun sets it, or unset it"
        )
    return int(text)


def check_batch(batch_size: int, ranks: Ranks) -> None:
    """Raises ConfigError if a rank would have less than the two images that batch-norm needs."""
    if ranks.size > 1 and batch_size < 2 * ranks.size:
        raise ConfigError(
            f"batch_size={batch_size} is the global batch and too small for {ranks.size} ranks: give "
            f"{2 * ranks.size} or more, two images for each (batch-norm needs them), or start fewer ranks"
        )


def let_the_first_report(claim: Callable[[], bool]) -> None:
    """From now on the rank that calls `claim` first is the one that reports a failure."""
    global _claim
    _claim = claim


@cache
def reports(ranks: Ranks) -> bool:
    """True in the one rank that reports a failure to the user: the first that failed, since the others only follow.

    Before they have met, all ranks of a machine run into the same error: the machine's first one reports it, and the
    others wait for their launcher to end them.
    """
    if _claim is not None:
        return _claim()
    if ranks.local_rank > 0:
        time.sleep(PATIENCE)
    return True
