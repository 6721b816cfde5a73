"""Evaluation: every image once, in evaluation mode."""

from collections.abc import Callable, Iterable
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenet_train import foreach
from mobilenet_train.distributed import agreed, summed
from mobilenet_train.models import folded
from mobilenet_train.results import Score
from mobilenet_train.runtime import Runtime


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop by a `signal` (SIGTERM, Ctrl-C), on this rank or another; its state is saved."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal


class Evaluator:
    """Evaluates models of one architecture, whose weights change."""

    def __init__(self, model: nn.Module, compile_mode: str | None) -> None:
        """`compile_mode` is device.compile. torch's compiler knows a network by its tensors, so one copy is kept."""
        self._compiled: nn.Module | None = None
        if compile_mode is not None:
            self._compiled = folded(model)
            self._compiled.compile(mode=compile_mode, dynamic=False)

    def network(self, model: nn.Module) -> nn.Module:
        """A copy of `model` as it is now, in evaluation mode and with batch-norm folded in."""
        network = folded(model)
        if self._compiled is None:
            return network
        kept, new = (list(chain(one.parameters(), one.buffers())) for one in (self._compiled, network))
        foreach.copy_(kept, new)
        return self._compiled


EAGER = Evaluator(nn.Identity(), None)


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    runtime: Runtime,
    stop: Callable[[], int],
    show: Callable[[Tensor], None] = lambda _: None,
    evaluator: Evaluator = EAGER,
) -> Score:
    """Mean cross-entropy, top-1 and (above ten classes) top-5 over all images of all ranks.

    Sums are kept on the device; `show` is handed the logits (B, classes) of each batch. The model itself is not
    touched: what computes is the `evaluator`'s copy of it.
    Raises Interrupted between batches once `stop()` gives the number of a signal, on this rank or another.
    """
    network = evaluator.network(model)
    totals = torch.zeros(3, dtype=runtime.sum_dtype, device=runtime.device)
    count = classes = usual = 0
    for images, labels in batches:
        (signal,) = agreed(runtime.ranks, stop())
        if signal:
            raise Interrupted(signal)
        if len(labels) == 0:  # this rank has no share of a small last batch
            continue
        usual = usual or len(labels)
        compute = network if len(labels) == usual else network.forward  # a smaller last batch is not compiled for
        with runtime.casting():
            logits = compute(images).float()
        totals += batch_sums(logits, labels, runtime.sum_dtype)
        show(logits)
        count, classes = count + len(labels), logits.shape[1]
    sums = summed(runtime.ranks, torch.cat([totals, totals.new_tensor([count, classes > 10])]))
    loss, top1, top5 = (sums[:3] / sums[3]).tolist()
    return Score(loss, 100 * top1, 100 * top5 if sums[4] > 0 else None)


def batch_sums(logits: Tensor, labels: Tensor, dtype: torch.dtype) -> Tensor:
    """(sum of cross-entropies, number right, number right within the first five) of a batch, `dtype` (3,)."""
    loss = F.cross_entropy(logits, labels, reduction="sum")
    ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return torch.stack([loss.to(dtype), ranked[:, 0].sum().to(dtype), ranked.sum().to(dtype)])
