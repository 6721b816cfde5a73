"""Layers that are trained faster on a CPU where the compiled kernels apply: PyTorch's numbers to rounding.

A kernel computes several modules at once. So it is asked for only where nobody would notice: the modules are of the
very classes that it knows (not parametrised, say), and no hook waits for what one of them is given or makes.
"""

from collections.abc import Sequence
from typing import TypeGuard, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as torch_module

from mobilenet_train.kernels import dispatch as kernels

Layer = TypeVar("Layer", bound=nn.Module)
GLOBAL_HOOKS = [  # on the passes of every module: torch's registers of them, which are private
    hooks for name, hooks in vars(torch_module).items() if name.startswith(("_global_forward", "_global_backward"))
]


class BatchNorm2d(nn.BatchNorm2d):
    """Batch-norm by a kernel where that applies: (N, C, H, W) -> the same shape."""

    def forward(self, x: Tensor) -> Tensor:
        trained = kernels.norm_activation(x, (self,)) if type(self) is BatchNorm2d else None
        return super().forward(x) if trained is None else trained


def unnoticed(module: nn.Module, *classes: type[Layer]) -> TypeGuard[Layer]:
    """Whether a module is of one of these very classes, and nothing is hooked to it or put in place of its forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return type(module) in classes and not (any(hooks) or "forward" in module.__dict__ or any(GLOBAL_HOOKS))


def norm_activation(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """What a norm and perhaps an activation, whatever they are, make of x: (N, C, H, W) -> the same shape."""
    trained = kernels.norm_activation(x, layers) if _known(layers) else None
    return _one_by_one(x, layers) if trained is None else trained


def convolution_norm(
    x: Tensor, before: Sequence[nn.Module], convolution: nn.Module, after: Sequence[nn.Module]
) -> Tensor:
    """What all of them make of x, one after the other; each of `before`, which may be empty, and `after` is a norm and
    perhaps an activation.

    (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)). A depthwise convolution and the batch-norms
    around it are trained together.
    """
    if unnoticed(convolution, nn.Conv2d) and all(_known(layers) for layers in (before, after) if layers):
        trained = kernels.depthwise_norm(x, before, convolution, after)
        if trained is not None:
            return trained
    if before:
        x = norm_activation(x, before)
    return norm_activation(_convolve(convolution, x), after)


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """A 1x1 convolution of maps of one pixel: (N, in_channels) -> (N, out_channels), as a faster product."""
    if unnoticed(layer, nn.Conv2d):
        return F.linear(x, layer.weight.flatten(1), layer.bias)
    return layer(x[:, :, None, None]).flatten(1)


def _convolve(convolution: nn.Module, x: Tensor) -> Tensor:
    """In fp32 where the CPU trains in bf16 and the convolution is depthwise: PyTorch's own takes many times as long."""
    depthwise = isinstance(convolution, nn.Conv2d) and convolution.groups > 1
    if depthwise and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu") and x.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            return convolution(x.float())
    return convolution(x)


def _known(layers: Sequence[nn.Module]) -> bool:
    """Whether the kernels know this norm and perhaps activation."""
    norm, *activation = layers
    return (
        unnoticed(norm, BatchNorm2d)
        and len(activation) <= 1
        and all(unnoticed(layer, *kernels.ACTIVATIONS) for layer in activation)
    )


def _one_by_one(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x
