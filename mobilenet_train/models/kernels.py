"""Kernels for training on a CPU that are compiled when the package is installed (kernels.c); see there.

They take over where they apply and nothing changes where they do not: another device or precision, another layout,
evaluation, a package installed without a C compiler.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {type(None): 0, nn.ReLU: 1, nn.ReLU6: 2, nn.Hardswish: 3}  # as numbered in kernels.c
FEWEST_CHANNELS = 16  # of a depthwise convolution
INSTRUCTIONS = {"AVX512": "avx512", "AVX2": "avx2"}  # torch's name for what the CPU can do -> the library's


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels for this CPU, or None if there are none."""
    name = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), "any")
    try:
        return ctypes.CDLL(str(Path(__file__).with_name(f"kernels_{name}.so")))
    except OSError:  # not compiled, or for another system
        return None


def takes(x: Tensor, layer: nn.Module) -> bool:
    """Whether the kernels compute with `layer`, in training, and maps `x`: (N, C, H, W) fp32 channels-last on a CPU."""
    return (
        layer.training
        and type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 4
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and x.is_contiguous(memory_format=torch.channels_last)
        and library() is not None
    )


class NormActivation(torch.autograd.Function):
    """activation(batch_norm(x)) by the batch's statistics: (N, C, H, W) -> the same shape; running ones are updated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, activation: int) -> Tensor:
        channels = x.shape[1]
        rows = x.numel() // channels
        y, mean, inverse_deviation = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        kernels().norm_forward(
            *map(_pointer, (x, y, weight, bias, norm.running_mean, norm.running_var, mean, inverse_deviation)),
            *map(ctypes.c_long, (rows, channels)),
            ctypes.c_float(norm.momentum or 0.0),
            ctypes.c_float(norm.eps),
            *map(ctypes.c_int, (activation, torch.get_num_threads())),
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        ctx.activation = activation
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        kernels().norm_backward(
            *map(_pointer, (gradient, x, weight, bias, mean, inverse_deviation, grad_x, grad_weight, grad_bias)),
            *map(ctypes.c_long, (x.numel() // x.shape[1], x.shape[1])),
            *map(ctypes.c_int, (ctx.activation, torch.get_num_threads())),
        )
        return grad_x, grad_weight, grad_bias, None, None


class SqueezeExcite(torch.autograd.Function):
    """x (N, C, H, W) times hard-sigmoid(W2 relu(W1 m + b1) + b2), m being its means (N, C); W1 (S, C), W2 (C, S)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        means = x.mean((2, 3))
        squeezed = F.linear(means, w1, b1).relu_()
        scale = F.hardsigmoid(F.linear(squeezed, w2, b2))
        ctx.save_for_backward(x, w1, w2, means, squeezed, scale)
        return x * scale[:, :, None, None]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        x, w1, w2, means, squeezed, scale = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        sizes = (*map(ctypes.c_long, (images, height * width, channels)), ctypes.c_int(torch.get_num_threads()))
        of_scale = torch.empty_like(scale)
        kernels().sums_of_products(*map(_pointer, (gradient, x, of_scale)), *sizes)
        excited = of_scale * ((scale > 0) & (scale < 1)) / 6
        hidden = excited.mm(w2) * (squeezed > 0)
        level = hidden.mm(w1) / (height * width)
        of_x = torch.empty_like(x)
        kernels().scale_and_lift(*map(_pointer, (gradient, scale, level, of_x)), *sizes)
        return of_x, hidden.t().mm(means), hidden.sum(0), excited.t().mm(squeezed), excited.sum(0)


class Depthwise(torch.autograd.Function):
    """conv2d(x, weight, groups=C): x (N, C, H, W) of 16 channels or more, weight (C, 1, K, K), K 3 or 5."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        return torch.conv2d(x, weight, None, stride, padding, 1, x.shape[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        images, channels, height, width = x.shape
        grad_weight = torch.empty_like(weight, memory_format=torch.contiguous_format)
        kernels().depthwise_weight_gradient(
            *map(_pointer, (gradient, x, grad_weight)),
            *map(ctypes.c_long, (images, height, width, channels, *gradient.shape[2:], weight.shape[2])),
            *map(ctypes.c_long, (ctx.stride, ctx.padding)),
            ctypes.c_int(torch.get_num_threads()),
        )
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        strides, padding = [ctx.stride] * 2, [ctx.padding] * 2
        only_x = [True, False, False]
        grad_x, _, _ = torch.ops.aten.convolution_backward(
            gradient, x, weight, None, strides, padding, [1, 1], False, [0, 0], channels, only_x
        )
        return grad_x, grad_weight, None, None


def kernels() -> ctypes.CDLL:
    found = library()
    assert found is not None  # takes() said so
    return found


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
