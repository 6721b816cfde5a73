"""Batches for training and evaluation, made on the run's device from images in memory or stored elsewhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mobilenet_train.config.schema import AugmentConfig, TrainConfig
from mobilenet_train.data import augment, operations, policies
from mobilenet_train.data.balance import balanced_order, places_of_draws
from mobilenet_train.data.images import Dataset, Preprocessing, Split
from mobilenet_train.ranks import ALONE, Ranks

# images (B, C, R, R) fp32; labels (B,) int64 or, where images are mixed, shares of the classes (B, classes) fp32
Batch = tuple[Tensor, Tensor]


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
        classes: int,
        resolution: int,
        ranks: Ranks = ALONE,
        balanced: bool = False,
    ) -> None:
        """`resolution` is the side of what the network sees, in pixels."""
        self.split = split
        stored = split.images
        # images in memory are padded here, once; stored ones as they are fetched
        self.padded = augment.pad(stored, policy.crop_padding) if isinstance(stored, Tensor) else None
        self.balanced = balanced
        self.labels = split.labels
        self.size = tuple(stored.shape[1:3])
        self.policy = policy
        self.batch_size = batch_size
        self.rows = ranks.rows(batch_size)
        self.seed = seed
        self.classes = classes
        self.resolution = resolution
        self.prepare = Preprocessor(preprocessing, split.labels.device, layout)

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def epoch(self, epoch: int, start: int = 0, resolution: Callable[[], int] | None = None) -> Iterator[Batch]:
        """The batches of an epoch from number `start` on; each depends on (seed, epoch, its samples) only.

        `resolution`, asked before each batch, takes the place of the usual one. All that is drawn goes to a GPU before
        the first batch; making a batch then neither copies anything there nor waits for it.
        """
        policy, device, count = self.policy, self.labels.device, len(self.labels)
        draws = augment.draw(count, self.seed, epoch, policy.crop_padding, policy.flip)
        chances = policies.draw(count, self.seed, epoch, policy)
        order = balanced_order(self.labels.cpu(), self.seed, epoch) if self.balanced else draws.order
        places = places_of_draws(order) if self.balanced else order
        mixes = chances.mix is not None
        rows = slice(None) if mixes else self.rows  # partners come from anywhere in the global batch
        whole = len(self) * self.batch_size
        batches, places = (
            numbers[:whole].view(len(self), self.batch_size)[start:, rows] for numbers in (order, places)
        )
        grouped = policies.grouped(chances, places)
        draws, chances, grouped = draws.to(device), chances.to(device), grouped and grouped.to(device)
        if policy.cutout:
            holes = augment.draw_cutout(count, self.seed, epoch, *self.size).to(device)
        for number, (samples, place, images) in enumerate(self._windows(batches, places.to(device), draws)):
            if policy.flip:
                images = augment.mirror(images, draws.flip[place])
            if policy.cutout:
                images = augment.cut_out(images, holes[place], policy.cutout, self.prepare.mean_colour)
            side = resolution() if resolution else self.resolution
            groups = grouped and grouped[number]
            inputs, targets = self._finish(images, self.labels[samples], chances.of(place), groups, side)
            yield (inputs[self.rows], targets[self.rows]) if mixes else (inputs, targets)

    def _windows(
        self, batches: Tensor, places: Tensor, draws: augment.Draws
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The samples (B,) of each of `batches` (batches, B) on the device, where their draws are, and their windows
        (B, H, W, C).
        """
        padding = self.policy.crop_padding
        if self.padded is not None:
            for samples, place in zip(batches.to(self.padded.device), places, strict=True):
                windows = augment.crop(self.padded, samples, draws.top[place], draws.left[place], padding)
                yield samples, place, windows
            return
        images_of_batches = self.split.batches(batches.unbind())
        for samples, place, images in zip(batches.to(self.labels.device), places, images_of_batches, strict=True):
            numbers = torch.arange(len(samples), device=images.device)
            padded = augment.pad(images, padding)
            yield samples, place, augment.crop(padded, numbers, draws.top[place], draws.left[place], padding)

    def _finish(
        self,
        images: Tensor,
        labels: Tensor,
        chances: policies.Chances,
        grouped: operations.Grouped | None,
        resolution: int,
    ) -> Batch:
        """Cropped images (B, H, W, C) and their chances -> what the network sees, and its targets."""
        if chances.moves_pixels:
            planes = policies.transform(images, chances, grouped, resolution, self.policy.operations)
            inputs = self.prepare.normalise(planes)
        else:
            inputs = self.prepare(images, resolution)
        if chances.erased is not None:
            inputs = policies.erase(inputs, chances.erased)
        return (inputs, labels) if chances.mix is None else policies.mix(inputs, labels, chances.mix, self.classes)


class EvalBatches:
    """Every image once, in order, its central part; the last batch is as small as it has to be.

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
        self.crop_ratio = preprocessing.crop_ratio
        self.prepare = Preprocessor(preprocessing, split.labels.device, layout)

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    @property
    def shares(self) -> list[range]:
        """The numbers of this rank's images in each batch."""
        images = range(len(self.split))
        batches = (images[first : first + self.batch_size] for first in images[:: self.batch_size])
        return [numbers[self.ranks.rows(len(numbers))] for numbers in batches]

    def __iter__(self) -> Iterator[Batch]:
        shares, stored = self.shares, self.split.images
        found: Iterator[Tensor]
        if isinstance(stored, Tensor):  # by slices, which need nothing of the device
            found = (stored[numbers.start : numbers.stop] for numbers in shares)
        else:
            found = self.split.batches([torch.tensor(numbers, dtype=torch.int64) for numbers in shares])
        for numbers, images in zip(shares, found, strict=True):
            labels = self.split.labels[numbers.start : numbers.stop]
            yield self.prepare(augment.centre(images, self.crop_ratio)), labels


class Preprocessor:
    """Stored images -> the network's input, and back for looking at."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device, layout: torch.memory_format) -> None:
        self.resolution = preprocessing.resolution
        self.scale = preprocessing.scale
        self.mean = torch.tensor(preprocessing.mean, device=device)
        self.std = torch.tensor(preprocessing.std, device=device)
        self.layout = layout

    @property
    def mean_colour(self) -> Tensor:
        """The colour (C,), of the images' type, that becomes about 0 in the network's input."""
        return (self.mean * 255).round().to(torch.uint8) if self.scale == 255 else self.mean

    def __call__(self, images: Tensor, resolution: int | None = None) -> Tensor:
        """(B, H, W, C) -> fp32 (B, C, R, R), R being `resolution` or the one of evaluation."""
        side = resolution or self.resolution
        return augment.normalise(images, self.mean, self.std, side, self.layout, self.scale)

    def normalise(self, planes: Tensor) -> Tensor:
        """Planes fp32 (B, C, R, R) with the images' values -> the network's input. Changes `planes`."""
        return policies.normalise(planes, self.mean, self.std, self.layout, self.scale)

    def undo(self, inputs: Tensor) -> Tensor:
        """Network inputs of uint8 images -> fp32 (B, C, R, R) with values in 0..1."""
        return (inputs * self.std[:, None, None] + self.mean[:, None, None]).clamp(0, 1)

    def shown(self, inputs: Tensor) -> Tensor:
        """Network inputs -> colours fp32 (B, 3, R, R) in 0..1: the first three channels, or the only one.

        Values in other units than uint8's go from black to white within two standard deviations of their mean.
        """
        values = self.undo(inputs) if self.scale == 255 else (inputs / 4 + 0.5).clamp(0, 1)
        return values[:, :3] if values.shape[1] >= 3 else values[:, :1].expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Batches:
    """The batches of a run: for training, for testing and of the hold-out split."""

    train: TrainBatches
    test: EvalBatches
    val: EvalBatches | None


def make_batches(config: TrainConfig, dataset: Dataset, layout: torch.memory_format, ranks: Ranks = ALONE) -> Batches:
    """The batches that a configuration asks for, on the device that the data set is on."""
    pre, size = dataset.preprocessing, config.eval.batch_size
    return Batches(
        train=TrainBatches(
            dataset.train,
            pre,
            config.augment,
            config.batch_size,
            config.seed,
            layout,
            classes=len(dataset.class_names),
            resolution=config.dataset.resolution,
            ranks=ranks,
            balanced=config.balance == "sampling",
        ),
        test=EvalBatches(dataset.test, pre, size, layout, ranks),
        val=EvalBatches(dataset.val, pre, size, layout, ranks) if dataset.val else None,
    )
