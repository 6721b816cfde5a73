"""Layers that are trained faster on a CPU where the compiled kernels apply: PyTorch's numbers to rounding."""

from collections.abc import Sequence
from itertools import chain
from typing import TypeGuard

import torch
from torch import Tensor, nn

from mobilenet_train.kernels import bindings as kernels


class BatchNorm2d(nn.BatchNorm2d):
    """Batch-norm that takes the activation after it along: (N, C, H, W) -> the same shape."""

    def forward(self, x: Tensor, activation: nn.Module | None = None) -> Tensor:
        several = x.numel() > x.shape[1]  # torch refuses a single value for a channel, with a message of its own
        if several and kernels.takes(x, self):
            layers = (self, activation) if activation else (self,)
            return kernels.NormActivation.apply(x, self.weight, self.bias, layers)
        x = super().forward(x)
        return x if activation is None else activation(x)


def norm_activation(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """What a norm and perhaps an activation, whatever they are, make of x: (N, C, H, W) -> the same shape."""
    if _batch_norm(layers):
        norm, *activation = layers
        return norm(x, *activation)
    for layer in layers:
        x = layer(x)
    return x


def convolution_norm(
    x: Tensor, before: Sequence[nn.Module], convolution: nn.Module, after: Sequence[nn.Module]
) -> Tensor:
    """What all of them make of x, one after the other; each of `before`, which may be empty, and `after` is a norm and
    perhaps an activation.

    (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). A depthwise convolution and the batch-norms
    around it are trained together.
    """
    if _depthwise(convolution) and all(_batch_norm(layers) for layers in (before, after) if layers):
        norms = [layers[0] for layers in (before, after) if layers]
        if all(kernels.takes(x, layer) for layer in (convolution, *norms)) and len(x) > 1:
            parameters = [(layers, layers[0].weight, layers[0].bias) for layers in (after, before) if layers]
            return kernels.DepthwiseNorm.apply(x, convolution.weight, convolution.stride[0], *chain(*parameters))
    if before:
        x = norm_activation(x, before)
    return norm_activation(_convolve(convolution, x), after)


def _convolve(convolution: nn.Module, x: Tensor) -> Tensor:
    """In fp32 where the CPU trains in bf16 and the convolution is depthwise: PyTorch's own takes many times as long."""
    depthwise = isinstance(convolution, nn.Conv2d) and convolution.groups > 1
    if depthwise and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return convolution(x.float())
    return convolution(x)


def _depthwise(layer: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether the kernels know this convolution."""
    return (
        type(layer) is nn.Conv2d
        and kernels.FEWEST_CHANNELS <= layer.in_channels == layer.out_channels == layer.groups
        and layer.kernel_size in ((3, 3), (5, 5))
    )


def _batch_norm(layers: Sequence[nn.Module]) -> bool:
    """Whether the kernels know this norm and activation."""
    return isinstance(layers[0], BatchNorm2d) and all(type(layer) in kernels.ACTIVATIONS for layer in layers[1:])
