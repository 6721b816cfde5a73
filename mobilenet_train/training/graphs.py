"""Updates as CUDA graphs: a GPU gets one order for a whole update, and not a thousand one after the other."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mobilenet_train.data.batches import Batch

WARM_UPS = 2  # updates of a shape that are launched first: cuDNN searches for the fastest algorithms

Update = Callable[[Batch], Tensor]  # all that the device does, and what it measures


@dataclass(frozen=True)
class Recorded:
    """A graph, the tensors that it reads and the one that it writes."""

    replay: Callable[[], None]
    inputs: Batch
    measured: Tensor


class UpdateGraphs:
    """Makes a run's updates on a GPU, by graphs, one for each shape of a batch, or launched: to the same bits.

    A graph reads and writes the very tensors with which it was recorded, so the learning rates are on the device, and
    `clear` has to be called when other tensors take the place of the optimiser's.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, replays: bool) -> None:
        self.replays = replays
        self._optimizer = optimizer
        device = optimizer.param_groups[0]["params"][0].device
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.clear()

    def clear(self) -> None:
        """Forgets all graphs, whose memory is free again."""
        self._launched: Counter[object] = Counter()
        self._recorded: dict[object, Recorded] = {}

    def run(self, update: Update, batch: Batch) -> Tensor:
        """`update(batch)`, from the third of its shape on by a graph. The result is overwritten by the next call.

        Random numbers must have been seeded before; the learning rates are those of the optimiser's groups.
        """
        for rate, group in zip(self._rates, self._optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        shape = tuple((tensor.shape, tensor.dtype) for tensor in batch)
        if shape not in self._recorded:
            with self._rates_on_the_device():
                self._launched[shape] += 1
                if not self.replays or self._launched[shape] <= WARM_UPS:
                    return update(batch)
                self._recorded[shape] = record(update, batch)
        recorded = self._recorded[shape]
        for kept, new in zip(recorded.inputs, batch, strict=True):
            kept.copy_(new)
        recorded.replay()
        return recorded.measured

    @contextmanager
    def _rates_on_the_device(self) -> Iterator[None]:
        """Within it the optimiser takes its learning rates from tensors."""
        groups = self._optimizer.param_groups
        before: list[dict[str, Any]] = [
            {name: group[name] for name in ("lr", "capturable") if name in group} for group in groups
        ]
        for rate, group, old in zip(self._rates, groups, before, strict=True):
            group.update({**old, "capturable": True, "lr": rate} if "capturable" in old else {"lr": rate})
        try:
            yield
        finally:
            for group, old in zip(groups, before, strict=True):
                group.update(old)


def record(update: Update, batch: Batch) -> Recorded:
    """The graph of an update, which is not made yet."""
    images, labels = batch[0].clone(), batch[1].clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a thread that fetches images may go on
        measured = update((images, labels))
    return Recorded(graph.replay, (images, labels), measured)
