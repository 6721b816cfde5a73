"""Map-style datasets of torch, (image, label) each, read into arrays once."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mobilenet_train.data.images import ImageData
from mobilenet_train.errors import RunError


def from_datasets(train: Any, test: Any) -> ImageData:
    """Everything that two datasets hold, in memory; class names are `train.classes`, or else the numbers.

    An image is a tensor (C, H, W), or an image of PIL or array (H, W, C) or (H, W); all have one size. Raises RunError.
    """
    (images, labels), (test_images, test_labels) = _arrays(train, "training"), _arrays(test, "test")
    found = getattr(train, "classes", None) or range(int(max(labels.max(), test_labels.max())) + 1)
    return ImageData(images, labels, test_images, test_labels, [str(name) for name in found])


def _arrays(dataset: Any, what: str) -> tuple[Tensor, Tensor]:
    try:
        pairs = [dataset[number] for number in range(len(dataset))]
        images = torch.stack([_channels_last(image) for image, _ in pairs])
        return images, torch.tensor([int(label) for _, label in pairs])
    except Exception as error:  # whatever the user's own dataset raises
        reason = f"{type(error).__name__}: {error}"
        raise RunError(f"the {what} dataset does not give images of one size with whole labels: {reason}") from error


def _channels_last(image: Any) -> Tensor:
    if isinstance(image, Tensor):
        return image.movedim(0, -1) if image.ndim == 3 else image
    return torch.from_numpy(np.array(image))
