"""Batches for training and evaluation, made on the device where the data lies. No worker processes."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mobilenet_train.config import AugmentConfig
from mobilenet_train.data import augment
from mobilenet_train.data.images import Preprocessing, Split
from mobilenet_train.ranks import ALONE, Ranks

Batch = tuple[Tensor, Tensor]  # images (B, 3, R, R) fp32, labels (B,) int64


class TrainBatches:
    """Shuffled, augmented batches, or a rank's rows of each.

    The last incomplete batch of an epoch is left out; the shuffle changes which.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        policy: AugmentConfig,
        batch_size: int,
        seed: int,
        layout: torch.memory_format,
        ranks: Ranks = ALONE,
    ) -> None:
        self.labels = split.labels
        self.padded = augment.pad(split.images, policy.crop_padding)
        self.size = tuple(split.images.shape[1:3])
        self.policy = policy
        self.batch_size = batch_size
        self.rows = ranks.rows(batch_size)
        self.seed = seed
        self.prepare = Prepare(preprocessing, split.images.device, layout)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; each depends on (seed, epoch, its samples) only."""
        policy = self.policy
        draws = augment.draw(len(self.labels), self.seed, epoch, policy.crop_padding, policy.flip)
        draws = draws.to(self.labels.device)
        if policy.cutout:
            holes = augment.draw_cutout(len(self.labels), self.seed, epoch, *self.size).to(self.labels.device)
        for batch in range(start, len(self)):
            samples = draws.order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rows]
            corner = draws.top[samples], draws.left[samples]
            images = augment.crop(self.padded, samples, *corner, policy.crop_padding)
            if policy.flip:
                images = augment.mirror(images, draws.flip[samples])
            if policy.cutout:
                images = augment.cut_out(images, holes[samples], policy.cutout, self.prepare.mean_colour)
            yield self.prepare(images), self.labels[samples]


class EvalBatches:
    """Every image once, in order, as it is; the last batch is as small as it has to be.

    A rank has its rows of each batch, perhaps none of the last one, so all have the same number of batches.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        batch_size: int,
        layout: torch.memory_format,
        ranks: Ranks = ALONE,
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.ranks = ranks
        self.prepare = Prepare(preprocessing, split.images.device, layout)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in zip(
            self.split.images.split(self.batch_size), self.split.labels.split(self.batch_size), strict=True
        ):
            rows = self.ranks.rows(len(labels))
            yield self.prepare(images[rows]), labels[rows]


class Prepare:
    """Stored uint8 images -> the network's input, and back for looking at."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device, layout: torch.memory_format) -> None:
        self.resolution = preprocessing.resolution
        self.mean = torch.tensor(preprocessing.mean, device=device)
        self.std = torch.tensor(preprocessing.std, device=device)
        self.layout = layout

    @property
    def mean_colour(self) -> Tensor:
        """The uint8 colour (3,) that becomes about 0 in the network's input."""
        return (self.mean * 255).round().to(torch.uint8)

    def __call__(self, images: Tensor) -> Tensor:
        return augment.normalise(images, self.mean, self.std, self.resolution, self.layout)

    def undo(self, inputs: Tensor) -> Tensor:
        """Network inputs -> pictures (B, 3, R, R) with values in 0..1."""
        return (inputs * self.std[:, None, None] + self.mean[:, None, None]).clamp(0, 1)
