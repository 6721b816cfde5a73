"""Colour jitter and the operations of TrivialAugment and RandAugment on batches, each sample with its own strength."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenet_train.config.schema import AugmentConfig

SPATIAL = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
COLOURS = ("brightness", "contrast", "saturation")  # in the order of `jitter`'s factors
SINGLE = ("sharpness", "posterize", "solarize", "autocontrast", "equalize")
KINDS = ("identity", *SPATIAL, *COLOURS, *SINGLE)
GROUPS = {"spatial": SPATIAL, "colours": COLOURS, **{name: (name,) for name in SINGLE}}  # computed together
UNCHANGED = len(GROUPS)  # the group of `identity`

# What strength 1 means: shear as a slope, translation as a share of the side, rotation in degrees, colours and
# sharpness as a factor's distance from 1, posterize as bits taken away.
# TrivialAugment's wide space (Mueller & Hutter 2021, Table 1; its 32 pixels are meant for 224) ...
WIDE = {"shear": 0.99, "translate": 32 / 224, "rotate": 135.0, "factor": 0.99, "bits": 6}
# ... and RandAugment's (Cubuk et al. 2019) at magnitude 30
RAND = {"shear": 0.3, "translate": 150 / 331, "rotate": 30.0, "factor": 0.9, "bits": 4}
SPACES = {"trivialaugment": WIDE, "randaugment": RAND}
GREY = (0.299, 0.587, 0.114)  # luminance of red, green and blue (ITU-R BT.601)
LEVELS = 31  # strengths are whole levels from 0 to 30
RANDAUGMENT_OPERATIONS = 2  # one after the other


def jitter(planes: Tensor, factors: Tensor) -> Tensor:
    """Brightness, contrast and saturation by `factors` (B, 3), in this order, as torchvision's ColorJitter blends.

    All three are linear in the colours, so a sample's are one 3x3 matrix and one offset; values are clamped to
    [0, 255] once, at the end.
    """
    brightness, contrast, saturation = factors.unbind(1)
    grey = torch.stack([planes.new_full((), weight) for weight in GREY])  # made there: a copy would wait for a GPU
    mean = planes.mean((2, 3)) @ grey
    keep = torch.eye(3, device=planes.device) * saturation[:, None, None]
    matrix = (keep + (1 - saturation)[:, None, None] * grey) * (brightness * contrast)[:, None, None]
    offset = brightness * (1 - contrast) * mean
    changed = torch.baddbmm(offset[:, None, None], matrix, planes.flatten(2))
    return changed.clamp_(0, 255).view_as(planes)


def draw(samples: int, policy: AugmentConfig, chances: torch.Generator) -> Tensor | None:
    """(N, operations, 2): the kind, and the strength from -1 to 1. None if the policy has no operations."""
    if policy.operations == "none":
        return None
    count = 1 if policy.operations == "trivialaugment" else RANDAUGMENT_OPERATIONS
    kind = torch.randint(len(KINDS), (samples, count), generator=chances)
    level = torch.randint(LEVELS, (samples, count), generator=chances)
    if policy.operations == "randaugment":
        level = torch.full_like(level, policy.magnitude)
    sign = torch.randint(2, (samples, count), generator=chances) * 2 - 1
    return torch.stack([kind, sign * level / (LEVELS - 1)], dim=2)


@dataclass(frozen=True)
class Grouped:
    """Which images of a batch get an operation of which group, sorted on the CPU: asking a GPU would wait for it."""

    order: Tensor  # int64 (..., B): the images of the batch, by group
    sizes: Any  # of each group, nested lists (..., groups)

    @classmethod
    def of(cls, kinds: Tensor) -> "Grouped":
        """Of kinds (..., B) on the CPU."""
        numbers = {name: number for number, names in enumerate(GROUPS.values()) for name in names}
        group = torch.tensor([numbers.get(name, UNCHANGED) for name in KINDS])[kinds.long()]
        return cls(group.argsort(stable=True), F.one_hot(group, UNCHANGED + 1).sum(-2).tolist())

    def to(self, device: torch.device) -> "Grouped":
        """The same on `device`."""
        return Grouped(self.order.to(device), self.sizes)

    def __getitem__(self, number: int) -> "Grouped":
        """Of one batch out of several, or of one operation after the other."""
        return Grouped(self.order[number], self.sizes[number])


def apply(planes: Tensor, kinds: Tensor, strengths: Tensor, grouped: Grouped, space: dict[str, float]) -> Tensor:
    """One operation on every image of (B, 3, H, W), values in 0..255; `kinds` and `strengths` are (B,)."""
    result = planes.round()
    for group, chosen in zip(GROUPS, grouped.order.split(grouped.sizes)[:UNCHANGED], strict=True):
        if len(chosen) > 0:
            changed = _change(group, result[chosen], kinds[chosen], strengths[chosen], space)
            result[chosen] = changed.clamp(0, 255).round()
    return result


def _change(group: str, planes: Tensor, kinds: Tensor, strengths: Tensor, space: dict[str, float]) -> Tensor:
    from torchvision.transforms.v2 import functional as v2

    if group == "spatial":
        return _warp(planes, _matrices(kinds, strengths, space))
    if group == "colours":
        factors = torch.ones(len(planes), len(COLOURS), device=planes.device)
        which = kinds - KINDS.index(COLOURS[0])
        factors[torch.arange(len(planes), device=planes.device), which.long()] += strengths * space["factor"]
        return jitter(planes, factors)
    strength = strengths.abs()[:, None, None, None]
    if group == "sharpness":
        return _sharpen(planes, 1 + strengths[:, None, None, None] * space["factor"])
    if group == "posterize":
        step = 2 ** (strength * space["bits"]).round()
        return (planes / step).floor() * step
    if group == "solarize":
        return torch.where(planes >= 255 * (1 - strength), 255 - planes, planes)
    whole = planes.to(torch.uint8)
    return (v2.autocontrast(whole) if group == "autocontrast" else v2.equalize(whole)).float()


def _matrices(kinds: Tensor, strengths: Tensor, space: dict[str, float]) -> Tensor:
    """(B, 2, 3): where each output pixel comes from, about the centre, in units of half a side."""
    theta = torch.eye(2, 3, device=kinds.device).repeat(len(kinds), 1, 1)

    def amount(name: str, unit: float) -> Tensor:
        return torch.where(kinds == KINDS.index(name), strengths * unit, torch.zeros_like(strengths))

    theta[:, 0, 1] += amount("shear_x", space["shear"])
    theta[:, 1, 0] += amount("shear_y", space["shear"])
    theta[:, 0, 2] += amount("translate_x", 2 * space["translate"])
    theta[:, 1, 2] += amount("translate_y", 2 * space["translate"])
    angle = amount("rotate", math.radians(space["rotate"]))
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    theta[:, :, :2] = turned @ theta[:, :, :2]
    return theta


def _warp(planes: Tensor, theta: Tensor) -> Tensor:
    """Bilinear; what comes from outside is black, as in both papers' code."""
    grid = F.affine_grid(theta, list(planes.shape), align_corners=False)
    return F.grid_sample(planes, grid, align_corners=False)


def _sharpen(planes: Tensor, factor: Tensor) -> Tensor:
    """Away from (factor > 1) or towards a 3x3 blur; the outermost pixels stay, as in Pillow."""
    kernel = torch.ones(3, 1, 3, 3, device=planes.device)
    kernel[:, :, 1, 1] = 5
    blurred = planes.clone()
    blurred[:, :, 1:-1, 1:-1] = F.conv2d(planes, kernel / 13, groups=3).round()
    return torch.lerp(blurred, planes, factor)
