"""Small sets of random images, whose labels are their numbers."""

from dataclasses import replace

import torch

from mobilenet_train.config.schema import AugmentConfig
from mobilenet_train.data.batches import EvalBatches, TrainBatches
from mobilenet_train.data.images import Preprocessing, Split

PLAIN = Preprocessing(resolution=12, mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.3), stored=(12, 12))
NOTHING = AugmentConfig(
    name="none",
    crop_padding=0,
    flip=False,
    cutout=0,
    resized_crop=None,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    operations="none",
    magnitude=9,
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
)
CROP_AND_FLIP = replace(NOTHING, name="basic", crop_padding=3, flip=True)


def numbered(count: int, size: int = 12) -> Split:
    """Random images; the label of each is its number."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count))


def train_batches(
    split: Split, policy: AugmentConfig = CROP_AND_FLIP, size: int = 8, seed: int = 0, balanced: bool = False
) -> TrainBatches:
    return TrainBatches(
        split,
        PLAIN,
        policy,
        size,
        seed,
        torch.contiguous_format,
        classes=len(split),
        resolution=PLAIN.resolution,
        balanced=balanced,
    )


def eval_batches(split: Split, size: int, preprocessing: Preprocessing = PLAIN) -> EvalBatches:
    return EvalBatches(split, preprocessing, size, torch.contiguous_format)
