"""Augmentation as pure functions on whole batches, drawn up front for every sample of an epoch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenet_train.seeding import CROP, CUTOUT, FLIP, SHUFFLE, generator


@dataclass(frozen=True)
class Draws:
    """One epoch's chances: `order` of the samples; crop corner and flip of each, indexed by sample, all (N,)."""

    order: Tensor
    top: Tensor
    left: Tensor
    flip: Tensor

    def to(self, device: torch.device) -> "Draws":
        """The same draws on `device`."""
        return Draws(self.order.to(device), self.top.to(device), self.left.to(device), self.flip.to(device))


def draw(samples: int, seed: int, epoch: int, crop_padding: int, flip: bool) -> Draws:
    """Draws an epoch from (seed, epoch) alone, so that a batch depends on nothing that came before.

    A sample is mirrored in every second epoch, half of the samples in the even ones (the alternating flip of
    Jordan, "94% on CIFAR-10 in 3.29 seconds", 2024): each epoch pair shows every image both ways.
    """
    corner = torch.randint(0, 2 * crop_padding + 1, (2, samples), generator=generator(seed, CROP, epoch))
    first = torch.randint(0, 2, (samples,), generator=generator(seed, FLIP))
    mirrored = (first + epoch) % 2 == 1 if flip else torch.zeros(samples, dtype=torch.bool)
    order = torch.randperm(samples, generator=generator(seed, SHUFFLE, epoch))
    return Draws(order, corner[0], corner[1], mirrored)


def draw_cutout(samples: int, seed: int, epoch: int, height: int, width: int) -> Tensor:
    """The centre (row, column) of every sample's hole in this epoch, anywhere in the image; int64 (N, 2)."""
    chances = torch.rand((samples, 2), generator=generator(seed, CUTOUT, epoch))
    return (chances * torch.tensor([height, width])).long()


def pad(images: Tensor, padding: int) -> Tensor:
    """(N, H, W, C) -> (N, H + 2 padding, W + 2 padding, C), reflected at the border."""
    count, height, width, channels = images.shape
    padded = images.new_empty(count, height + 2 * padding, width + 2 * padding, channels)
    padded[:, padding : padding + height, padding : padding + width] = images
    rows, columns = padded[:, :, padding : padding + width], padded.transpose(1, 2)
    for lines, size in ((rows, height), (columns, width)):
        first, last = padding, padding + size - 1
        for distance in range(1, padding + 1):  # outwards: a border wider than the image mirrors the border
            lines[:, first - distance] = lines[:, first + distance]
            lines[:, last + distance] = lines[:, last - distance]
    return padded


def crop(padded: Tensor, samples: Tensor, top: Tensor, left: Tensor, padding: int) -> Tensor:
    """Cuts one window from each of `samples`: a view of all windows, indexed by (sample, top, left)."""
    count, height, width, channels = padded.shape
    windows = padded.as_strided(
        (count, 2 * padding + 1, 2 * padding + 1, height - 2 * padding, width - 2 * padding, channels),
        (padded.stride(0), padded.stride(1), padded.stride(2), *padded.stride()[1:]),
    )
    return windows[samples, top, left]


def centre(images: Tensor, ratio: float) -> Tensor:
    """The central `ratio` of each side of (B, H, W, C), to the nearest pixel."""
    height, width = (round(ratio * side) for side in images.shape[1:3])
    top, left = (images.shape[1] - height) // 2, (images.shape[2] - width) // 2
    return images[:, top : top + height, left : left + width]


def mirror(images: Tensor, mask: Tensor) -> Tensor:
    """The images (B, H, W, C), left to right where `mask` (B,) is set."""
    return torch.where(mask[:, None, None, None], images.flip(2), images)


def cut_out(images: Tensor, centres: Tensor, side: int, colour: Tensor) -> Tensor:
    """Paints one square of `side` pixels in each image (B, H, W, C) with `colour` (C,), cut off at the borders.

    The square around the centre (row, column) of `centres` (B, 2) starts side // 2 pixels before it.
    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with Cutout", 2017.
    """
    top, left = (centres - side // 2)[..., None].unbind(1)
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[1:3])
    in_rows = (rows >= top) & (rows < top + side)
    in_columns = (columns >= left) & (columns < left + side)
    hole = in_rows[:, :, None, None] & in_columns[:, None, :, None]
    return torch.where(hole, colour, images)


def normalise(
    images: Tensor, mean: Tensor, std: Tensor, resolution: int, layout: torch.memory_format, scale: float = 255.0
) -> Tensor:
    """(B, H, W, C) -> fp32 (B, C, resolution, resolution) of zero mean and unit standard deviation.

    `mean` and `std` are (C,), of values divided by `scale`: in 0..1 for uint8. Images are resized with bilinear
    interpolation, with antialiasing when they get smaller.
    """
    values = images.to(torch.float32, copy=True).sub_(mean * scale).mul_(1 / (std * scale))
    return resize(values.permute(0, 3, 1, 2), resolution).contiguous(memory_format=layout)


def resize(values: Tensor, resolution: int) -> Tensor:
    """fp32 (B, C, H, W) -> (B, C, resolution, resolution), bilinear, with antialiasing where it shrinks."""
    if tuple(values.shape[2:]) == (resolution, resolution):
        return values
    shrinks = resolution < min(values.shape[2:])
    return F.interpolate(values, (resolution, resolution), mode="bilinear", antialias=shrinks)
