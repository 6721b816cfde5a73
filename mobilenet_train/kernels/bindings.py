"""Kernels for training on a CPU that are compiled when the package is installed (kernels.c); see there.

They take over where they apply and nothing changes where they do not: another device, fp16 or fp64, another layout,
evaluation, a package installed without a C compiler.
"""

import ctypes
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {type(None): 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}  # as numbered in kernels.c
FEWEST_CHANNELS = 16  # of a depthwise convolution
MAPS = {torch.float32: "", torch.bfloat16: "_bf16"}  # -> the library's suffix
INSTRUCTIONS = {"AVX512": "avx512", "AVX2": "avx2"}  # torch's name for what the CPU can do -> the library's


@cache
def library(dtype: torch.dtype = torch.float32) -> ctypes.CDLL | None:
    """The kernels compiled for this CPU and maps of `dtype`, or None if there are none."""
    name = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), "any") + MAPS.get(dtype, "_none")
    try:
        return ctypes.CDLL(str(Path(__file__).with_name(f"kernels_{name}.so")))
    except OSError:  # not compiled, or for another system
        return None


def takes(x: Tensor, layer: nn.Module) -> bool:
    """Whether the kernels compute with `layer`, in training, and maps `x`: (N, C, H, W) channels-last on a CPU."""
    return (
        layer.training
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dim() == 4
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and library(x.dtype) is not None
    )


class Norm(ctypes.Structure):
    """`struct norm` in kernels.c: a batch-norm's tensors and the activation after it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "mean", "inverse_deviation")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_variance", "grad_weight", "grad_bias")),
        *((name, ctypes.c_float) for name in ("momentum", "epsilon")),
        ("activation", ctypes.c_int),
    )


class DepthwiseShape(ctypes.Structure):
    """`struct depthwise` in kernels.c."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in ("images", "height", "width", "channels", "out_height", "out_width", "kernel", "stride")
    )


Layers = Sequence[Any]  # a batch-norm and perhaps an activation


def forward_norm(layers: Layers, statistics: Sequence[Tensor]) -> Norm:
    """For the forward pass, which writes `statistics` (mean, 1 / standard deviation) and moves the running ones."""
    norm = layers[0]
    norm.num_batches_tracked.add_(1)
    tensors = (norm.weight, norm.bias, *statistics, norm.running_mean, norm.running_var)
    return Norm(*_pointers(*tensors), None, None, norm.momentum, norm.eps, activation_of(layers))


def backward_norm(saved: Sequence[Tensor], gradients: Sequence[Tensor], activation: int) -> Norm:
    """For the backward pass, which writes the gradients of weight and bias; saved: these and the statistics."""
    return Norm(*_pointers(*saved), None, None, *_pointers(*gradients), 0.0, 0.0, activation)


def activation_of(layers: Layers) -> int:
    """The number of the activation in kernels.c."""
    return ACTIVATIONS[type(layers[1]) if len(layers) > 1 else type(None)]


class NormActivation(torch.autograd.Function):
    """activation(norm(x)) by the batch's statistics: (N, C, H, W) -> the same shape; running ones are updated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, layers: Layers) -> Tensor:
        y, *statistics = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        norm = forward_norm(layers, statistics)
        kernels(x).norm_forward(*_pointers(x, y), ctypes.byref(norm), *_rows(x), _threads())
        ctx.save_for_backward(x, weight, bias, *statistics)
        ctx.activation = activation_of(layers)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        grad_x, *gradients = (torch.empty_like(tensor) for tensor in (x, *saved[:2]))
        norm = backward_norm(saved, gradients, ctx.activation)
        kernels(x).norm_backward(*_pointers(gradient, x), ctypes.byref(norm), *_pointers(grad_x), *_rows(x), _threads())
        return grad_x, *gradients, None


class DepthwiseNorm(torch.autograd.Function):
    """activation(norm(conv2d(z, weight, groups=C))), z being x or, with layers `before`, what they make of x.

    x (N, C, H, W) of 16 channels or more, weight (C, 1, K, K), K 3 or 5. The weight and bias of both norms are given
    beside their layers. z and its gradient are never in memory as a whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: int,
        after: Layers,
        after_weight: Tensor,
        after_bias: Tensor,
        before: Layers = (),
        before_weight: Tensor | None = None,
        before_bias: Tensor | None = None,
    ) -> Tensor:
        images, channels, *size = x.shape
        out_size = [(side - 1) // stride + 1 for side in size]
        out_shape = (images, channels, *out_size)
        out, y = (torch.empty(out_shape, dtype=x.dtype, memory_format=torch.channels_last) for _ in range(2))
        mean, inverse_std, before_mean, before_inverse_std = (torch.empty_like(after_weight) for _ in range(4))
        shape = DepthwiseShape(images, *size, channels, *out_size, weight.shape[2], stride)
        kernels(x).depthwise_forward(
            *_pointers(x),
            ctypes.byref(forward_norm(before, (before_mean, before_inverse_std))) if before else None,
            *_pointers(weight, out),
            ctypes.byref(forward_norm(after, (mean, inverse_std))),
            *_pointers(y),
            ctypes.byref(shape),
            _threads(),
        )
        of_after = (after_weight, after_bias, mean, inverse_std)
        of_before = (before_weight, before_bias, before_mean, before_inverse_std)
        ctx.save_for_backward(x, weight, out, *of_after, *of_before)
        ctx.shape, ctx.activations = shape, [activation_of(layers) for layers in (after, before) if layers]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out, *norms = ctx.saved_tensors
        of_after, *of_before = ctx.activations
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        grad_x, grad_weight, *gradients = (torch.empty_like(tensor) for tensor in (x, weight, *norms[:2] * 2))
        kernels(x).depthwise_backward(
            *_pointers(gradient, x),
            ctypes.byref(backward_norm(norms[4:], gradients[2:], *of_before)) if of_before else None,
            *_pointers(weight, out),
            ctypes.byref(backward_norm(norms[:4], gradients[:2], of_after)),
            *_pointers(grad_x, grad_weight),
            ctypes.byref(ctx.shape),
            _threads(),
        )
        return grad_x, grad_weight, None, None, *gradients[:2], None, *(gradients[2:] if of_before else (None, None))


class SqueezeExcite(torch.autograd.Function):
    """x (N, C, H, W) times hard-sigmoid(W2 relu(W1 m + b1) + b2), m being its means (N, C); W1 (S, C), W2 (C, S)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        sums = torch.empty(x.shape[:2])
        kernels(x).sums_of_pixels(*_pointers(x, sums), *_images(x), _threads())
        means = sums / (x.shape[2] * x.shape[3])
        with torch.autocast("cpu", enabled=False):
            squeezed = F.linear(means, w1, b1).relu_()
            scale = F.hardsigmoid(F.linear(squeezed, w2, b2))
        ctx.save_for_backward(x, w1, w2, means, squeezed, scale)
        return _scale_and_lift(x, scale, torch.zeros_like(scale))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, w1, w2, means, squeezed, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_scale = torch.empty_like(scale)
        kernels(x).sums_of_products(*_pointers(gradient, x, of_scale), *_images(x), _threads())
        excited = of_scale * ((scale > 0) & (scale < 1)) / 6
        hidden = excited.mm(w2) * (squeezed > 0)
        level = hidden.mm(w1) / (x.shape[2] * x.shape[3])
        of_x = _scale_and_lift(gradient, scale, level)
        return of_x, hidden.t().mm(means), hidden.sum(0), excited.t().mm(squeezed), excited.sum(0)


def _scale_and_lift(x: Tensor, scale: Tensor, level: Tensor) -> Tensor:
    """x (N, C, H, W) times scale (N, C) plus level (N, C)."""
    out = torch.empty_like(x)
    kernels(x).scale_and_lift(*_pointers(x, scale, level, out), *_images(x), _threads())
    return out


def kernels(x: Tensor) -> ctypes.CDLL:
    """The library for maps of x's type, which is there."""
    found = library(x.dtype)
    assert found is not None  # as takes() has checked
    return found


def _pointers(*tensors: Tensor | None) -> Iterator[ctypes.c_void_p]:
    return (ctypes.c_void_p(None if tensor is None else tensor.data_ptr()) for tensor in tensors)


def _rows(x: Tensor) -> Iterator[ctypes.c_long]:
    """(N, C, H, W) -> rows N x H x W and channels."""
    return map(ctypes.c_long, (x.numel() // x.shape[1], x.shape[1]))


def _images(x: Tensor) -> Iterator[ctypes.c_long]:
    """(N, C, H, W) -> images, pixels of each and channels."""
    return map(ctypes.c_long, (x.shape[0], x.shape[2] * x.shape[3], x.shape[1]))


def _threads() -> ctypes.c_int:
    return ctypes.c_int(torch.get_num_threads())
