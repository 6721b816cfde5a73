"""Everything that changes while a run trains, and nothing else: what a checkpoint has to hold."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mobilenet_train.results import EpochResult, Score
from mobilenet_train.runtime import Runtime
from mobilenet_train.training.ema import Ema
from mobilenet_train.training.evaluation import EAGER, Evaluator
from mobilenet_train.training.graphs import UpdateGraphs

COUNTERS = ("step", "epoch", "batch", "recoveries", "elapsed")


@dataclass
class Best:
    """The epoch with the highest top-1 so far, on the hold-out split if there is one, else on the test set."""

    epoch: int
    top1: float


@dataclass
class EpochSums:
    """The running totals of the current epoch. Tensors stay on the device, so that adding needs no sync."""

    totals: Tensor  # (2,) of the runtime's sum_dtype: sum of losses, number right
    last_batch: Tensor  # (2,): mean loss and top-1 (percent) of the last batch
    seen: int = 0
    seconds: float = 0.0
    started_at: float = 0.0

    def score(self) -> Score:
        """Means over the images seen so far (waits for the device)."""
        loss, right = (self.totals / max(1, self.seen)).tolist()
        return Score(loss, 100 * right)

    @property
    def images_per_second(self) -> float:
        """Training throughput of the epoch so far; 0 before its first update."""
        return self.seen / self.seconds if self.seconds else 0.0


@dataclass
class TrainState:
    """A run at one moment: `step` updates done; in epoch `epoch`, `batch` batches done."""

    model: nn.Module
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    sums: EpochSums
    first_bad_step: Tensor  # int64 (): the first update with a loss that was not finite, or -1
    updates: int  # planned for the whole run; a budget plans again during the run
    replica: nn.Module | None = None  # the model as several ranks train it, exchanging gradients
    evaluator: Evaluator = EAGER
    graphs: UpdateGraphs | None = None  # where a GPU makes updates alone
    step: int = 0
    epoch: int = 0
    batch: int = 0
    recoveries: int = 0  # times the run went back to a checkpoint because a loss was not finite
    elapsed: float = 0.0  # seconds of a run with a budget so far
    best: Best | None = None
    history: list[EpochResult] = field(default_factory=list)
    test_predictions: Tensor | None = None  # int32 (N,): the class of each test image after the last finished epoch

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, so that torch.load(weights_only=True) takes it."""
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict() if self.ema else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": {name: getattr(self, name) for name in COUNTERS},
            "sums": dict(vars(self.sums)),
            "best": asdict(self.best) if self.best else None,
            "history": [asdict(result) for result in self.history],
            "test_predictions": self.test_predictions,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues from `saved`, on the device that the model is on."""
        self.model.load_state_dict(saved["model"])
        if self.ema:
            self.ema.model.load_state_dict(saved["ema"])
        self.optimizer.load_state_dict(saved["optimizer"])
        if self.graphs:
            self.graphs.clear()
        self.scaler.load_state_dict(saved["scaler"])
        for name in COUNTERS:
            setattr(self, name, saved["progress"][name])
        like = self.sums.totals
        self.sums = EpochSums(**saved["sums"])
        self.sums.totals, self.sums.last_batch = self.sums.totals.to(like), self.sums.last_batch.to(like)
        self.best = Best(**saved["best"]) if saved["best"] else None
        self.first_bad_step.fill_(-1)
        self.history = [result_from_dict(values) for values in saved["history"]]
        self.test_predictions = saved.get("test_predictions")  # a checkpoint from before there were any


@contextmanager
def restored(state: TrainState) -> Iterator[None]:
    """What happens within leaves no trace in `state`."""
    before = deepcopy(state.state_dict())
    try:
        yield
    finally:
        state.load_state_dict(before)


def new_sums(runtime: Runtime, started_at: float = 0.0) -> EpochSums:
    """Empty totals on the runtime's device, for an epoch that started at `started_at` (seconds since 1970)."""
    zeros = torch.zeros(2, dtype=runtime.sum_dtype, device=runtime.device)
    return EpochSums(zeros, zeros.clone(), started_at=started_at)


def result_from_dict(values: dict[str, Any]) -> EpochResult:
    """The inverse of dataclasses.asdict for an EpochResult."""
    scores = {key: Score(**values[key]) for key in ("train", "test", "val", "ema_test") if values[key]}
    return EpochResult(**{**values, **scores})
