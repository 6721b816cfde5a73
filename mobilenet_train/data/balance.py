"""For classes of unequal size: weights for the loss, or an order that shows every class equally often."""

import torch
from torch import Tensor

from mobilenet_train.seeding import SHUFFLE, generator


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights (classes,) fp32 in inverse proportion to the number of images, with a mean of 1 over all images."""
    counts = labels.bincount(minlength=classes)
    return (len(labels) / (classes * counts.clamp_min(1))).float()


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """As many sample numbers as there are labels (N,), with each class equally often (to within one).

    A small class is shown several times, all of its images before one comes again; a large class in part, another
    part in each epoch. Drawn from (seed, epoch).
    """
    draw = generator(seed, SHUFFLE, epoch)
    present = labels.unique()
    quotas = torch.full((len(present),), len(labels) // len(present))
    quotas[torch.randperm(len(present), generator=draw)[: len(labels) % len(present)]] += 1
    chosen = []
    for label, quota in zip(present, quotas.tolist(), strict=True):
        members = (labels == label).nonzero()[:, 0]
        repeats = -(-quota // len(members))
        shuffled = torch.cat([members[torch.randperm(len(members), generator=draw)] for _ in range(repeats)])
        chosen.append(shuffled[:quota])
    return torch.cat(chosen)[torch.randperm(len(labels), generator=draw)]


def places_of_draws(order: Tensor) -> Tensor:
    """Where among the draws of an epoch, which are indexed by sample, those of each shown sample of `order` (N,) are.

    A sample's own at first; when it comes again those of a sample that is not shown, of which there are as many.
    """
    by_sample = order.argsort(stable=True)
    again = by_sample[1:][order[by_sample].diff() == 0]
    places = order.clone()
    places[again] = (order.bincount(minlength=len(order)) == 0).nonzero()[:, 0]
    return places
