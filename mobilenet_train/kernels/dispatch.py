"""When a kernel takes over in training: each function here returns its result, or None to leave the work to torch.

They look at everything that the C reads, once, and pass on what they looked at. Left to torch are another device, fp16
or fp64, parameters not in fp32, another layout, evaluation, a package installed without a C compiler, and whatever has
to see every operator: torch.compile, torch.func, tracers, dispatch modes.
"""

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from mobilenet_train.kernels import bindings
from mobilenet_train.kernels.bindings import DepthwiseNorm, NormActivation, SqueezeExcite, Statistics

ACTIVATIONS = {nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}  # as numbered in common.h
KERNELS, STRIDES, FEWEST_CHANNELS = (3, 5), (1, 2), 16  # of a depthwise convolution

Layers = Sequence[Any]  # a batch-norm and perhaps one of ACTIVATIONS


def norm_activation(x: Tensor, layers: Layers) -> Tensor | None:
    """What they make of x, (N, C, H, W) -> the same shape; updates the running statistics."""
    if not _takes(x) or x.numel() == x.shape[1]:  # torch refuses a single value for a channel
        return None
    norm = _read_norm(layers, x.shape[1])
    if norm is None:
        return None
    _count_batch(layers)
    return NormActivation.apply(x, *norm)


def depthwise_norm(x: Tensor, before: Layers, convolution: nn.Conv2d, after: Layers) -> Tensor | None:
    """What `before`, which may be empty, the convolution and `after` make of x, one after the other.

    (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)); updates the running statistics.
    """
    if not _takes(x) or len(x) == 1:
        return None
    norms = [_read_norm(layers, x.shape[1]) for layers in (after, before) if layers]
    weight = _read_depthwise(convolution, x.shape[1])
    if weight is None or None in norms:
        return None
    for layers in (before, after):
        _count_batch(layers)
    return DepthwiseNorm.apply(x, weight, convolution.stride[0], *(part for norm in norms for part in norm or ()))


def squeeze_excite(x: Tensor, fc1: nn.Conv2d, fc2: nn.Conv2d) -> Tensor | None:
    """x (N, C, H, W) scaled by what two 1x1 convolutions, with ReLU and hard-sigmoid, make of its means."""
    if not (_takes(x) and fc1.training and fc2.training):
        return None
    first = _read_pointwise(fc1, x.shape[1], fc1.out_channels)
    second = _read_pointwise(fc2, fc1.out_channels, x.shape[1])
    return SqueezeExcite.apply(x, *first, *second) if first and second else None


def _read_norm(layers: Layers, channels: int) -> tuple[Tensor, Tensor, Statistics] | None:
    """Weight, bias and statistics of a batch-norm in training, or None if the C does not read such."""
    norm, *activation = layers
    weight, bias, mean, variance = norm.weight, norm.bias, norm.running_mean, norm.running_var
    readable = (
        norm.training
        and norm.track_running_stats
        and isinstance(norm.momentum, float | int)
        and all(_readable(tensor, channels) for tensor in (weight, bias, mean, variance))
    )
    if not readable:
        return None
    kind = ACTIVATIONS[type(activation[0])] if activation else 0
    return weight, bias, Statistics(mean, variance, norm.momentum, norm.eps, kind)


def _read_depthwise(convolution: nn.Conv2d, channels: int) -> Tensor | None:
    """The weight of a depthwise convolution in training, or None if the C does not know such."""
    kernel, stride, weight = convolution.kernel_size[0], convolution.stride[0], convolution.weight
    known = (
        convolution.training
        and FEWEST_CHANNELS <= channels == convolution.groups
        and kernel in KERNELS
        and stride in STRIDES
        and convolution.stride == (stride, stride)
        and convolution.padding == (kernel // 2, kernel // 2)
        and convolution.padding_mode == "zeros"
        and convolution.dilation == (1, 1)
        and convolution.bias is None
        and _readable(weight, channels, 1, kernel, kernel)
    )
    return weight if known else None


def _read_pointwise(convolution: nn.Conv2d, inputs: int, outputs: int) -> tuple[Tensor, Tensor] | None:
    """Weight (outputs, inputs) and bias of a 1x1 convolution, or None if the C does not read such."""
    weight, bias = convolution.weight, convolution.bias
    return (weight.flatten(1), bias) if _readable(weight, outputs, inputs, 1, 1) and _readable(bias, outputs) else None


def _count_batch(layers: Layers) -> None:
    """As torch does, which also sees that a kernel writes running statistics."""
    for norm in layers[:1]:
        norm.num_batches_tracked.add_(1)
        torch.autograd.graph.increment_version((norm.running_mean, norm.running_var))


def _takes(x: Tensor) -> bool:
    """Whether x is a map as the C reads it, and nothing has to see torch's operators."""
    return (
        not torch.compiler.is_compiling()
        and type(x) is Tensor
        and torch.is_grad_enabled()
        and not _is_watched()
        and x.dim() == 4
        and x.is_cpu
        and x.layout is torch.strided
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_neg()
        and x.numel() > 0
        and bindings.library(x.dtype) is not None
    )


def _is_watched() -> bool:
    """Whether torch.func, forward-mode differentiation, a dispatch mode or a tracer is at work."""
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
        or torch.jit.is_tracing()
    )


def _readable(tensor: Tensor | None, *shape: int) -> TypeGuard[Tensor]:
    """Whether a parameter or statistic is as the C reads it."""
    return (
        tensor is not None
        and type(tensor) in (Tensor, nn.Parameter)
        and tensor.dtype is torch.float32
        and tensor.is_cpu
        and tensor.layout is torch.strided
        and tensor.shape == shape
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )
