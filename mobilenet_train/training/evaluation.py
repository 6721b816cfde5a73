"""Evaluation: every image once, in evaluation mode."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobilenet_train.distributed import summed
from mobilenet_train.models import folded
from mobilenet_train.results import Score
from mobilenet_train.runtime import Runtime


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop (SIGTERM, Ctrl-C); its state is saved."""


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    runtime: Runtime,
    stop: Callable[[], bool],
    show: Callable[[Tensor], None] = lambda _: None,
) -> Score:
    """Mean cross-entropy, top-1 and (above ten classes) top-5 over all images of all ranks.

    Sums are kept on the device; `show` is handed the logits (B, classes) of each batch. The model itself is not
    touched: what computes is a copy with batch-norm folded in.
    Raises Interrupted between batches once `stop()` is true.
    """
    network = folded(model)
    totals = torch.zeros(3, dtype=runtime.sum_dtype, device=runtime.device)
    count = classes = 0
    for images, labels in batches:
        if stop():
            raise Interrupted
        if len(labels) == 0:  # this rank has no share of a small last batch
            continue
        with runtime.casting():
            logits = network(images).float()
        totals += batch_sums(logits, labels)
        show(logits)
        count, classes = count + len(labels), logits.shape[1]
    sums = summed(runtime.ranks, torch.cat([totals, totals.new_tensor([count, classes > 10])]))
    loss, top1, top5 = (sums[:3] / sums[3]).tolist()
    return Score(loss, 100 * top1, 100 * top5 if sums[4] > 0 else None)


def batch_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """(sum of cross-entropies, number right, number right within the first five) of a batch, float64 (3,)."""
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    ranked = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return torch.stack([loss, ranked[:, 0].sum().double(), ranked.sum().double()])
