"""What a run reports: the one stream of results that `fit` yields and trackers write."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """How a network did on a set of images; `loss` is the mean per sample, top-1 and top-5 are in percent."""

    loss: float
    top1: float
    top5: float | None = None  # only where there are more than ten classes


@dataclass(frozen=True)
class EpochStarted:
    """An epoch starts, or is resumed, with `batch` > 0; `time` is when it started, in seconds since 1970."""

    epoch: int
    batch: int
    time: float


@dataclass(frozen=True)
class Progress:
    """Inside an epoch, every `log_every` updates; means are over the epoch so far."""

    epoch: int
    batch: int  # batches done in this epoch
    step: int  # optimiser updates done in the run
    updates: int  # planned for the whole run
    batch_loss: float  # the last batch alone
    train: Score
    learning_rate: float
    images_per_second: float


@dataclass(frozen=True)
class EpochResult:
    """A finished epoch. Times are seconds since 1970; `seconds` and the throughput count training time only.

    One that `eval.every_epochs` passes over has no `test`, `val` and `ema_test`.
    """

    epoch: int
    step: int
    started_at: float
    trained_at: float
    finished_at: float
    last_batch_loss: float
    last_batch_top1: float
    train: Score
    test: Score | None
    val: Score | None
    ema_test: Score | None
    learning_rate: float
    images_per_second: float
    seconds: float
    evaluation_seconds: float


@dataclass(frozen=True)
class Operation:
    """One operation of a network: by its name, whose parts "/" separates, and those of the operations it reads."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]  # of the result


Event = EpochStarted | Progress | EpochResult
