"""Where in an image a network saw a class: LayerCAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from mobilenet_train.models import MobileNet


def heat_maps(model: MobileNet, images: Tensor, classes: Tensor) -> Tensor:
    """(N, 3, H, W) network inputs and a class of each, int64 (N,), to (N, H, W) from 0 to 1, 1 where it mattered most.

    A map of `features` times its gradient of the class's logit where that is positive, summed over the channels: for
    the last map of each size, each stretched from 0 to 1, and their geometric mean. The paper takes the largest, but
    the last maps of a MobileNet, whose squeeze-and-excites see the whole image, are warm everywhere.
    """
    with torch.enable_grad():
        x = images.detach().requires_grad_(True)
        last: dict[torch.Size, Tensor] = {}
        for layer in model.features:
            x = layer(x)
            last[x.shape[2:]] = x
        logits = model.classifier(x.mean((2, 3)))
        gradients = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), list(last.values()))
    heat = torch.ones_like(images[:, 0])
    for values, gradient in zip(last.values(), gradients, strict=True):
        found = (values.detach() * gradient.relu()).sum(1, keepdim=True).relu()
        heat *= _stretched(F.interpolate(found, size=tuple(images.shape[2:]), mode="bilinear")[:, 0])
    return _stretched(heat.pow(1 / len(last)))


def _stretched(heat: Tensor) -> Tensor:
    """(N, H, W), each from 0 to 1; 1 where all values are equal, as in a map of one pixel, which excludes nothing."""
    lowest, highest = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return torch.where(highest > lowest, (heat - lowest) / (highest - lowest), 1)
