"""What a data set is to the rest of the program: images and labels, and how to read them."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenet_train.data.stored import MappedImages, StoredImages, in_advance
from mobilenet_train.errors import ConfigError, RunError
from mobilenet_train.seeding import SPLIT, generator

WHOLE_NUMBERS = (
    *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    *(torch.int8, torch.int16, torch.int32, torch.int64),
)


@dataclass(frozen=True)
class Split:
    """Images (N, H, W, C), uint8 or fp32, in memory or stored elsewhere, and labels (N,) int64, on the run's device."""

    images: Tensor | StoredImages
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def dtype(self) -> torch.dtype:
        """Of the images; stored files are uint8."""
        return getattr(self.images, "dtype", torch.uint8)

    def take(self, index: Tensor) -> "Split":
        """Some of the images, in the order of `index` (numbers, or a mask); stored ones stay where they are."""
        images = self.images[index] if isinstance(self.images, Tensor) else self.images.take(index)
        return Split(images, self.labels[index])

    def to(self, device: torch.device) -> "Split":
        """Labels and images in memory on `device`; stored images are moved batch by batch."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return Split(images, self.labels.to(device))

    def batches(self, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images (B, H, W, C) of each batch of indices, in order, on the device of the labels."""
        if isinstance(self.images, Tensor):
            return (self.images[batch] for batch in batches)
        device, stored = self.labels.device, self.images.batches([batch.cpu() for batch in batches])
        if device.type == "cuda":  # copies from pinned memory wait for nothing
            stored = map(Tensor.pin_memory, stored)
            if isinstance(self.images, MappedImages):
                stored = in_advance(stored, partial(torch.cuda.set_device, device))
        return (images.to(device, non_blocking=True) for images in stored)


@dataclass(frozen=True)
class ImageData:
    """A data set as a source gives it; `dataset=custom` functions return one of these.

    Images are (N, H, W, C) or (N, H, W), uint8 or floating-point in any units, as numpy arrays or tensors; labels are
    whole numbers from 0 to len(class_names) - 1.
    """

    train_images: Any
    train_labels: Any
    test_images: Any
    test_labels: Any
    class_names: list[str]
    fingerprint: str | None = None  # of the four, as `fingerprint` gives it, if known already; else it is worked out


@dataclass(frozen=True)
class Preprocessing:
    """Everything between an image and the network's input in evaluation; a checkpoint holds it.

    An image file is first cut and scaled to `stored`, (height, width), the size in which training kept its images.
    """

    resolution: int
    mean: tuple[float, ...]  # per channel, of values divided by `scale`
    std: tuple[float, ...]
    stored: tuple[int, int]
    interpolation: str = "bilinear"
    crop_ratio: float = 1.0  # the central share of each side that is used
    scale: float = 255.0  # of uint8 images; 1 of floating-point ones

    @property
    def channels(self) -> int:
        """Of the network's input."""
        return len(self.mean)

    @property
    def is_rgb(self) -> bool:
        """Whether images are uint8 in three channels."""
        return self.channels == 3 and self.scale == 255


@dataclass(frozen=True)
class Dataset:
    """The images of a run. `val` is the hold-out split, where one was asked for."""

    train: Split
    test: Split
    val: Split | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    fingerprint: str

    def to(self, device: torch.device) -> "Dataset":
        """All splits on `device`."""
        val = self.val.to(device) if self.val is not None else None
        return replace(self, train=self.train.to(device), test=self.test.to(device), val=val)


def make_split(images: Any, labels: Any, classes: int, what: str, channels: int | None = None) -> Split:
    """Checks one split of a source and brings it into the common form. Raises RunError naming what is wrong.

    channels: that the network takes (model.in_channels); None: as many as there are, grey images repeated to three.
    """
    images, labels = _tensor(images, f"{what} images"), _tensor(labels, f"{what} labels")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise RunError(f"{what} images are {images.dtype}; give uint8 values from 0 to 255, or floating-point ones")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or _is_channels_first(*images.shape[1:]):
        raise RunError(f"{what} images have the shape {tuple(images.shape)}; give (N, H, W, C) or (N, H, W)")
    if images.is_floating_point():
        images = images.float()
        if not images.isfinite().all():
            raise RunError(f"{what} images have values that are not finite numbers")
    if 0 in images.shape[1:]:
        raise RunError(f"{what} images have the shape {tuple(images.shape)}, without a pixel")
    if labels.dtype not in WHOLE_NUMBERS or labels.shape != images.shape[:1]:
        raise RunError(
            f"{what} labels are {labels.dtype} {tuple(labels.shape)}; give one whole number for each of the "
            f"{len(images)} images"
        )
    if len(labels) == 0:
        raise RunError(f"there are no {what} images")
    labels = labels.long()
    if labels.min() < 0 or labels.max() >= classes:
        raise RunError(
            f"{what} labels go from {labels.min()} to {labels.max()}; {classes} classes have 0 to {classes - 1}"
        )
    return Split(_with_channels(images, channels, what).contiguous(), labels)


def _is_channels_first(first: int, second: int, last: int) -> bool:
    """Whether it is rather (C, H, W) of grey or coloured images than (H, W, C)."""
    return last not in (1, 3) and first in (1, 3) and first < second


def _with_channels(images: Tensor, wanted: int | None, what: str) -> Tensor:
    found = images.shape[3]
    if found == 1 and wanted in (None, 3):
        return images.expand(-1, -1, -1, 3)
    if wanted not in (None, found):
        raise RunError(f"model.in_channels={wanted}, but {what} images have {found} channels: leave it out")
    return images


def _tensor(values: Any, what: str) -> Tensor:
    try:
        return values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except Exception as error:  # whatever the user's own object raises
        raise RunError(f"{what} are not an array of numbers: {error}") from error


def stratified_sample(labels: Tensor, seed: int, fraction: float = 1.0, max_per_class: int | None = None) -> Tensor:
    """Indices (sorted) of a seeded sample with the same share of every class, at least one image of each."""
    order = torch.randperm(len(labels), generator=generator(seed, SPLIT))
    chosen = []
    for label in labels.unique():
        members = order[labels[order] == label]
        count = max(1, round(fraction * len(members)))
        chosen.append(members[: min(count, max_per_class or count)])
    return torch.cat(chosen).sort().values


def hold_out(split: Split, seed: int, fraction: float) -> tuple[Split, Split]:
    """Splits training images into (train, validation), stratified.

    Raises ConfigError if a class would have no training image left.
    """
    held = torch.zeros(len(split), dtype=torch.bool)
    held[stratified_sample(split.labels, seed, fraction)] = True
    if set(split.labels.unique().tolist()) != set(split.labels[~held].unique().tolist()):
        raise ConfigError(f"dataset.val_fraction={fraction} leaves a class without training images")
    return split.take(~held), split.take(held)


def channel_statistics(chunks: Iterable[Tensor], scale: float = 255.0) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of values divided by `scale`, of chunks of any shape (..., C).

    One that cannot be divided by becomes 1 / 255 for uint8 images, 1 for others.
    """
    sums, squares, pixels = torch.zeros(()), torch.zeros(()), 0
    for chunk in chunks:
        values = chunk.double().flatten(0, -2) / scale
        sums, squares = sums + values.sum(0), squares + values.square().sum(0)
        pixels += len(values)
    mean = sums / pixels
    std = (squares / pixels - mean.square()).clamp_min(0).sqrt()
    std = std.clamp_min(1 / 255) if scale == 255 else torch.where(std > 0, std, 1.0)
    return tuple(mean.tolist()), tuple(std.tolist())


def fingerprint(*splits: Split) -> str:
    """A digest of images (in memory) and labels, by which a resumed run sees whether its data changed."""
    digest = hashlib.blake2b(digest_size=16)
    for split in splits:
        assert isinstance(split.images, Tensor)
        digest.update(repr(tuple(split.images.shape)).encode())
        digest.update(split.images.numpy().data)
        digest.update(split.labels.numpy().data)
    return digest.hexdigest()
