"""Augmentation of photographs, a whole batch at a time with chances of its own for every sample.

Works on planes: fp32 (B, 3, H, W) with values in 0..255, on any device. Crop windows and flips of small images are
in `augment.py`; the operations of TrivialAugment and RandAugment in `operations.py`.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenet_train.config.schema import AugmentConfig
from mobilenet_train.data import operations
from mobilenet_train.data.augment import resize
from mobilenet_train.seeding import BOX, COLOUR, ERASE, MIX, OPERATION, generator, key

ASPECTS = (3 / 4, 4 / 3)  # of a resized crop, width to height (Szegedy et al. 2014, "Going deeper with convolutions")
ERASED_AREA, ERASED_ASPECTS = (0.02, 1 / 3), (0.3, 10 / 3)  # of random erasing (Zhong et al. 2017, section 4.1)


@dataclass(frozen=True)
class Chances:
    """One epoch's draws beyond order, window and flip, indexed by sample; None for what a policy does not do."""

    box: Tensor | None = None  # (N, 4) top, left, height and width of the crop, in shares of the image
    colour: Tensor | None = None  # (N, 3) factors of brightness, contrast and saturation
    operation: Tensor | None = None  # (N, K, 2) which operation, and how strong (-1..1)
    erased: Tensor | None = None  # (N, 4) top, left, height and width of the hole, in shares; no height is no hole
    mix: Tensor | None = None  # (N, 4) share kept, 1 for cutmix (0 mixup), row and column of the patch's centre

    @property
    def moves_pixels(self) -> bool:
        """True if images are changed before they are normalised."""
        return not (self.box is None and self.colour is None and self.operation is None)

    def of(self, samples: Tensor) -> "Chances":
        """The chances of some samples, in their order and on their device."""
        drawn = {item.name: getattr(self, item.name) for item in fields(self)}
        return Chances(**{name: None if part is None else part[samples] for name, part in drawn.items()})

    def to(self, device: torch.device) -> "Chances":
        """The same chances on `device`."""
        drawn = {item.name: getattr(self, item.name) for item in fields(self)}
        return Chances(**{name: None if part is None else part.to(device) for name, part in drawn.items()})


def draw(samples: int, seed: int, epoch: int, policy: AugmentConfig) -> Chances:
    """Draws an epoch for every sample, from (seed, epoch) alone."""
    jitters = (policy.brightness, policy.contrast, policy.saturation)
    return Chances(
        box=_draw_boxes(samples, seed, epoch, policy.resized_crop) if policy.resized_crop else None,
        colour=_draw_factors(samples, seed, epoch, jitters) if any(jitters) else None,
        operation=operations.draw(samples, policy, generator(seed, OPERATION, epoch)),
        erased=_draw_holes(samples, seed, epoch, policy.erasing) if policy.erasing else None,
        mix=_draw_mix(samples, seed, epoch, policy) if policy.mixup or policy.cutmix else None,
    )


def _draw_boxes(samples: int, seed: int, epoch: int, area: list[float]) -> Tensor:
    return _rectangles(torch.rand((samples, 4), generator=generator(seed, BOX, epoch)), (area[0], area[1]), ASPECTS)


def _draw_factors(samples: int, seed: int, epoch: int, jitters: tuple[float, float, float]) -> Tensor:
    """Each factor is uniform in 1 - jitter .. 1 + jitter, as in torchvision's ColorJitter."""
    chances = torch.rand((samples, 3), generator=generator(seed, COLOUR, epoch))
    return 1 + (2 * chances - 1) * torch.tensor(jitters)


def _draw_holes(samples: int, seed: int, epoch: int, probability: float) -> Tensor:
    chances = torch.rand((samples, 5), generator=generator(seed, ERASE, epoch))
    holes = _rectangles(chances[:, :4], ERASED_AREA, ERASED_ASPECTS)
    return torch.where(chances[:, 4:] < probability, holes, torch.zeros(()))


def _draw_mix(samples: int, seed: int, epoch: int, policy: AugmentConfig) -> Tensor:
    """Shares from Beta(alpha, alpha); with both kinds on, each pair gets one of them by even chance."""
    chances = np.random.default_rng(key(seed, MIX, epoch))
    places = chances.random((samples, 3))
    patch = np.full(samples, not policy.mixup) if not (policy.mixup and policy.cutmix) else places[:, 0] < 0.5
    alpha = np.where(patch, policy.cutmix, policy.mixup)
    kept = chances.beta(alpha, alpha)
    return torch.from_numpy(np.column_stack([kept, patch, places[:, 1:]]).astype(np.float32))


def _rectangles(chances: Tensor, area: tuple[float, float], aspects: tuple[float, float]) -> Tensor:
    """(N, 4) numbers in 0..1 -> (top, left, height, width), in shares of the image's sides.

    The area is uniform, the aspect ratio uniform on a logarithmic scale; a side longer than the image is cut.
    """
    size = area[0] + chances[:, 0] * (area[1] - area[0])
    low, high = math.log(aspects[0]), math.log(aspects[1])
    aspect = torch.exp(low + chances[:, 1] * (high - low))
    height, width = (size / aspect).sqrt().clamp_max(1), (size * aspect).sqrt().clamp_max(1)
    return torch.stack([chances[:, 2] * (1 - height), chances[:, 3] * (1 - width), height, width], dim=1)


def grouped(chances: Chances, batches: Tensor) -> operations.Grouped | None:
    """The operations of each batch of `batches` (batches, B), by batch and number of the operation, on the CPU."""
    return None if chances.operation is None else operations.Grouped.of(chances.operation[batches, :, 0].mT)


def transform(
    images: Tensor, chances: Chances, grouped: operations.Grouped | None, resolution: int, space: str
) -> Tensor:
    """uint8 (B, H, W, 3) -> planes (B, 3, resolution, resolution): resized crop, operations, colours, in this order.

    `space` is augment.operations.
    """
    if chances.box is None:
        planes = resize(to_planes(images), resolution)
    else:  # reads the images as they lie and writes planes
        planes = resized_crop(images.permute(0, 3, 1, 2).float(), chances.box, resolution)
    if chances.operation is not None and grouped is not None:
        for number, (kinds, strengths) in enumerate(chances.operation.permute(1, 2, 0)):
            planes = operations.apply(planes, kinds, strengths, grouped[number], operations.SPACES[space])
    return planes if chances.colour is None else operations.jitter(planes, chances.colour)


def to_planes(images: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> fp32 (B, 3, H, W), values in 0..255."""
    return images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)


def resized_crop(planes: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """Cuts `boxes` (B, 4) out and resizes them to (B, 3, resolution, resolution).

    Bilinear; with antialiasing, as evaluation has it, where the stored images are much larger than the network's input.
    """
    top, left, height, width = boxes.unbind(1)
    centres = (torch.arange(resolution, device=planes.device) + 0.5) / resolution
    across, down = left[:, None] + centres * width[:, None], top[:, None] + centres * height[:, None]
    if shrinks(min(planes.shape[2:]), resolution):
        rows = antialiased(down, height / resolution, planes.shape[2])
        columns = antialiased(across, width / resolution, planes.shape[3])
        return rows[:, None] @ planes @ columns[:, None].mT
    return (sample if planes.device.type == "cpu" else sample_within)(planes, across, down)


def shrinks(side: int, resolution: int) -> bool:
    """Whether images of `side` pixels are so much larger than the network's input that their crops are antialiased."""
    return side >= 1.5 * resolution


def antialiased(places: Tensor, spacing: Tensor, pixels: int) -> Tensor:
    """Weights (B, R, pixels) of the pixels along a side at `places` (B, R) `spacing` (B,) apart, in its shares.

    They fall along a straight line to 0 at the next place, or at the next pixel where that is further away.
    """
    reach = (spacing * pixels).clamp_min(1)[:, None, None]
    distance = places[:, :, None] * pixels - (torch.arange(pixels, device=places.device) + 0.5)
    weights = (1 - (distance / reach).abs()).clamp_min(0)
    return weights / weights.sum(2, keepdim=True)


def sample(planes: Tensor, across: Tensor, down: Tensor, padding: str = "border") -> Tensor:
    """The colours of (B, 3, H, W) at places (B, R) in shares of the sides -> (B, 3, R, R), bilinear."""
    grid = torch.stack(torch.broadcast_tensors(across[:, None, :], down[:, :, None]), dim=3) * 2 - 1
    return F.grid_sample(planes, grid, padding_mode=padding, align_corners=False)


def sample_within(planes: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """The same to rounding, without the padding `border`, which Apple's GPUs have not had until lately."""
    half_row, half_column = 0.5 / planes.shape[2], 0.5 / planes.shape[3]
    across, down = across.clamp(half_column, 1 - half_column), down.clamp(half_row, 1 - half_row)
    return sample(planes, across, down, "zeros")


def normalise(planes: Tensor, mean: Tensor, std: Tensor, layout: torch.memory_format, scale: float = 255.0) -> Tensor:
    """The images' values (B, C, R, R) -> the network's input; see `augment.normalise`. Changes `planes`."""
    scaled = planes.sub_((mean * scale)[:, None, None]).mul_((1 / (std * scale))[:, None, None])
    return scaled.contiguous(memory_format=layout)


def erase(inputs: Tensor, holes: Tensor) -> Tensor:
    """Sets a rectangle of each image to 0, the mean colour (random erasing, Zhong et al. 2017)."""
    return torch.where(_inside(inputs, holes), 0.0, inputs)


def mix(inputs: Tensor, labels: Tensor, chances: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mixes the images of a batch in pairs, the first with the second and so on; a last one without a partner stays.

    mixup (Zhang et al. 2017) adds both images with their shares, cutmix (Yun et al. 2019) pastes a patch of the
    partner. A pair uses the chances (B, 4) of its first image, both ways round, so that an even share of a batch
    gives the same images. The targets (B, classes) are the shares of the classes.
    """
    number = torch.arange(len(labels), device=labels.device)
    partner = (number ^ 1).clamp_max(len(labels) - 1)
    kept, patched, row, column = chances[number & ~1].unbind(1)
    side = (1 - kept).sqrt()
    patch = _inside(inputs, torch.stack([row - side / 2, column - side / 2, side, side], dim=1))
    own = torch.where(patched.bool()[:, None, None, None], (~patch).float(), kept[:, None, None, None])
    share = own.mean((2, 3))
    one_hot = F.one_hot(labels, classes).float()
    return torch.lerp(inputs[partner], inputs, own), torch.lerp(one_hot[partner], one_hot, share)


def _inside(inputs: Tensor, boxes: Tensor) -> Tensor:
    """Which pixels of (B, 3, H, W) have their centre in a box (top, left, height, width, in shares); (B, 1, H, W)."""
    rows, columns = (((torch.arange(n, device=inputs.device) + 0.5) / n)[None] for n in inputs.shape[2:])
    top, left, height, width = boxes.unsqueeze(2).unbind(1)
    down, across = (rows >= top) & (rows < top + height), (columns >= left) & (columns < left + width)
    return (down[:, :, None] & across[:, None, :])[:, None]
