"""Batches for training and evaluation, made on the device where the data lies. No worker processes."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mobilenet_train.config import AugmentConfig
from mobilenet_train.data import augment, policies
from mobilenet_train.data.images import Preprocessing, Split

# images (B, 3, R, R) fp32; labels (B,) int64 or, where images are mixed, shares of the classes (B, classes) fp32
Batch = tuple[Tensor, Tensor]


class TrainBatches:
    """Shuffled, augmented batches. The last incomplete batch of an epoch is left out; the shuffle changes which."""

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        policy: AugmentConfig,
        batch_size: int,
        seed: int,
        layout: torch.memory_format,
        classes: int,
        resolution_of: Callable[[int], int],
    ) -> None:
        """`resolution_of` says at which resolution the network sees an epoch."""
        self.labels = split.labels
        self.padded = augment.pad(split.images, policy.crop_padding)
        self.size = tuple(split.images.shape[1:3])
        self.policy = policy
        self.batch_size = batch_size
        self.seed = seed
        self.classes = classes
        self.resolution_of = resolution_of
        self.prepare = Prepare(preprocessing, split.images.device, layout)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; each depends on (seed, epoch, its samples) only."""
        policy = self.policy
        draws = augment.draw(len(self.labels), self.seed, epoch, policy.crop_padding, policy.flip)
        draws = draws.to(self.labels.device)
        chances = policies.draw(len(self.labels), self.seed, epoch, policy).to(self.labels.device)
        resolution = self.resolution_of(epoch)
        if policy.cutout:
            holes = augment.draw_cutout(len(self.labels), self.seed, epoch, *self.size).to(self.labels.device)
        for batch in range(start, len(self)):
            samples = draws.order[batch * self.batch_size : (batch + 1) * self.batch_size]
            corner = draws.top[samples], draws.left[samples]
            images = augment.crop(self.padded, samples, *corner, policy.crop_padding)
            if policy.flip:
                images = augment.mirror(images, draws.flip[samples])
            if policy.cutout:
                images = augment.cut_out(images, holes[samples], policy.cutout, self.prepare.mean_colour)
            yield self._finish(images, self.labels[samples], chances.of(samples), resolution)

    def _finish(self, images: Tensor, labels: Tensor, chances: policies.Chances, resolution: int) -> Batch:
        """Cropped uint8 images (B, H, W, 3) and their chances -> what the network sees, and its targets."""
        if chances.moves_pixels:
            planes = policies.transform(images, chances, resolution, self.policy.operations)
            inputs = self.prepare.normalise(planes)
        else:
            inputs = self.prepare(images, resolution)
        if chances.erased is not None:
            inputs = policies.erase(inputs, chances.erased)
        return (inputs, labels) if chances.mix is None else policies.mix(inputs, labels, chances.mix, self.classes)


class EvalBatches:
    """Every image once, in order, its central part; the last batch is as small as it has to be."""

    def __init__(
        self, split: Split, preprocessing: Preprocessing, batch_size: int, layout: torch.memory_format
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.crop_ratio = preprocessing.crop_ratio
        self.prepare = Prepare(preprocessing, split.images.device, layout)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in zip(
            self.split.images.split(self.batch_size), self.split.labels.split(self.batch_size), strict=True
        ):
            yield self.prepare(augment.centre(images, self.crop_ratio)), labels


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

    def __call__(self, images: Tensor, resolution: int | None = None) -> Tensor:
        return augment.normalise(images, self.mean, self.std, resolution or self.resolution, self.layout)

    def normalise(self, planes: Tensor) -> Tensor:
        return policies.normalise(planes, self.mean, self.std, self.layout)

    def undo(self, inputs: Tensor) -> Tensor:
        """Network inputs -> pictures (B, 3, R, R) with values in 0..1."""
        return (inputs * self.std[:, None, None] + self.mean[:, None, None]).clamp(0, 1)
