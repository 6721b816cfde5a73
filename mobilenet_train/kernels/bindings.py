"""The kernels that are compiled when the package is installed (the C beside this file), as functions of autograd.

dispatch.py says when they take over. Maps are (N, C, H, W) channels-last in fp32 or bf16, all else is fp32. They can be
differentiated once.
"""

import ctypes
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

MAPS = {torch.float32: "", torch.bfloat16: "_bf16"}  # -> the library's suffix
INSTRUCTIONS = {"AVX512": "avx512", "AVX2": "avx2"}  # torch's name for what the CPU can do -> the library's


class Pointer(NamedTuple):
    """The type of an argument: a tensor's numbers, of `dtype` and in this order."""

    dtype: torch.dtype
    order: torch.memory_format

    def from_param(self, tensor: Tensor) -> ctypes.c_void_p:
        """ctypes calls it for every argument. Raises TypeError for a tensor that the C would misread."""
        if tensor.dtype is self.dtype and tensor.is_cpu and tensor.is_contiguous(memory_format=self.order):
            return ctypes.c_void_p(tensor.data_ptr())
        raise TypeError(f"{tensor.dtype} on {tensor.device}, strides {tensor.stride()}, given for {self}")


FLOATS = Pointer(torch.float32, torch.contiguous_format)


class Norm(ctypes.Structure):
    """`struct norm` in common.h: a batch-norm's tensors, which it keeps alive, and the activation after it."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "mean", "inverse_deviation")),
        *((name, ctypes.c_void_p) for name in ("running_mean", "running_variance", "grad_weight", "grad_bias")),
        *((name, ctypes.c_float) for name in ("momentum", "epsilon")),
        ("activation", ctypes.c_int),
    )

    def __init__(self, tensors: Sequence[Tensor | None], momentum: float, epsilon: float, activation: int) -> None:
        pointers = (None if tensor is None else FLOATS.from_param(tensor) for tensor in tensors)
        super().__init__(*pointers, momentum, epsilon, activation)
        self.tensors = tensors


class DepthwiseShape(ctypes.Structure):
    """`struct depthwise` in common.h."""

    _fields_ = tuple(
        (name, ctypes.c_long)
        for name in ("images", "height", "width", "channels", "out_height", "out_width", "kernel", "stride")
    )


@cache
def library(dtype: torch.dtype = torch.float32) -> ctypes.CDLL | None:
    """The kernels compiled for this CPU and maps of `dtype`, or None if there are none."""
    name = INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability(), "any") + MAPS.get(dtype, "_none")
    try:
        return load(Path(__file__).with_name(f"kernels_{name}.so"), dtype)
    except OSError:  # not compiled, or for another system
        return None


def load(path: Path, dtype: torch.dtype) -> ctypes.CDLL:
    """The functions that common.h declares, with their arguments' types; they raise MemoryError."""
    found = ctypes.CDLL(str(path))
    maps, norm, shape = Pointer(dtype, torch.channels_last), ctypes.POINTER(Norm), ctypes.POINTER(DepthwiseShape)
    rows, images = (ctypes.c_long,) * 2, (ctypes.c_long,) * 3
    for name, arguments in {
        "norm_forward": (maps, maps, norm, *rows),
        "norm_backward": (maps, maps, norm, maps, *rows),
        "depthwise_forward": (maps, norm, FLOATS, maps, norm, maps, shape),
        "depthwise_backward": (maps, maps, norm, FLOATS, maps, norm, maps, FLOATS, shape),
        "sums_of_pixels": (maps, FLOATS, *images),
        "sums_of_products": (maps, maps, FLOATS, *images),
        "scale_and_lift": (maps, FLOATS, FLOATS, maps, *images),
    }.items():
        function = getattr(found, name)
        function.argtypes = (*arguments, ctypes.c_int)  # threads
        function.errcheck = _check
    return found


def _check(failed: int, function: Any, _: tuple) -> None:
    if failed:
        raise MemoryError(f"no memory for {function.__name__}")


class Statistics(NamedTuple):
    """A batch-norm's running statistics, which a forward pass moves, and what else it computes with."""

    mean: Tensor
    variance: Tensor
    momentum: float
    epsilon: float
    activation: int  # after it, as numbered in common.h


def forward_norm(parameters: Iterable[Tensor | None], of_batch: Iterable[Tensor], running: Statistics) -> Norm:
    """For the forward pass, which writes `of_batch` (mean, 1 / standard deviation). Parameters: weight and bias."""
    tensors = (*parameters, *of_batch, running.mean, running.variance, None, None)
    return Norm(tensors, running.momentum, running.epsilon, running.activation)


def backward_norm(saved: Iterable[Tensor], gradients: Iterable[Tensor], activation: int) -> Norm:
    """For the backward pass, which writes the gradients of weight and bias; saved: both, and `of_batch`."""
    return Norm((*saved, None, None, *gradients), 0.0, 0.0, activation)


class NormActivation(torch.autograd.Function):
    """activation(norm(x)) by the batch's statistics: (N, C, H, W) -> the same shape; running ones are updated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, running: Statistics) -> Tensor:
        y, *of_batch = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(weight)
        norm = forward_norm((weight, bias), of_batch, running)
        _kernels(x).norm_forward(x, y, norm, *_rows(x), torch.get_num_threads())
        ctx.save_for_backward(x, weight, bias, *of_batch)
        ctx.activation = running.activation
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, *saved = ctx.saved_tensors
        x, gradient = _ordered(x), _ordered(gradient)
        grad_x, *gradients = (torch.empty_like(tensor) for tensor in (x, *saved[:2]))
        norm = backward_norm(saved, gradients, ctx.activation)
        _kernels(x).norm_backward(gradient, x, norm, grad_x, *_rows(x), torch.get_num_threads())
        return grad_x, *gradients, None


class DepthwiseNorm(torch.autograd.Function):
    """activation(norm(conv2d(z, weight, groups=C))), z being x or, with a norm `before`, activation(norm(x)).

    x (N, C, H, W) of 16 channels or more, weight (C, 1, K, K), K 3 or 5, padding K // 2, stride 1 or 2. z and its
    gradient are never in memory as a whole.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: int,
        after_weight: Tensor,
        after_bias: Tensor,
        after: Statistics,
        before_weight: Tensor | None = None,
        before_bias: Tensor | None = None,
        before: Statistics | None = None,
    ) -> Tensor:
        images, channels, *size = x.shape
        out_size = [(side - 1) // stride + 1 for side in size]
        out_shape = (images, channels, *out_size)
        out = torch.empty(out_shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        y = torch.empty_like(out)
        of_after, of_before = ([torch.empty_like(after_weight) for _ in range(2)] for _ in range(2))
        ctx.shape = DepthwiseShape(images, *size, channels, *out_size, weight.shape[2], stride)
        _kernels(x).depthwise_forward(
            x,
            forward_norm((before_weight, before_bias), of_before, before) if before else None,
            weight,
            out,
            forward_norm((after_weight, after_bias), of_after, after),
            y,
            ctx.shape,
            torch.get_num_threads(),
        )
        saved_after, saved_before = (after_weight, after_bias, *of_after), (before_weight, before_bias, *of_before)
        ctx.save_for_backward(x, weight, out, *saved_after, *(saved_before if before else ()))
        ctx.activations = [statistics.activation for statistics in (after, before) if statistics]
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out, *norms = ctx.saved_tensors
        x, out, gradient = map(_ordered, (x, out, gradient))
        after, before, (of_after, *of_before) = norms[:4], norms[4:], ctx.activations
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        grads_after, grads_before = ([torch.empty_like(tensor) for tensor in norm[:2]] for norm in (after, before))
        _kernels(x).depthwise_backward(
            gradient,
            x,
            backward_norm(before, grads_before, *of_before) if before else None,
            weight,
            out,
            backward_norm(after, grads_after, of_after),
            grad_x,
            grad_weight,
            ctx.shape,
            torch.get_num_threads(),
        )
        return grad_x, grad_weight, None, *grads_after, None, *(grads_before or (None, None)), None


class SqueezeExcite(torch.autograd.Function):
    """x (N, C, H, W) times hard-sigmoid(W2 relu(W1 m + b1) + b2), m being its means (N, C); W1 (S, C), W2 (C, S)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        sums = torch.empty(x.shape[:2], dtype=torch.float32, device=x.device)
        _kernels(x).sums_of_pixels(x, sums, *_images(x), torch.get_num_threads())
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
        x, gradient = _ordered(x), _ordered(gradient)
        of_scale = torch.empty_like(scale)
        _kernels(x).sums_of_products(gradient, x, of_scale, *_images(x), torch.get_num_threads())
        with torch.autocast("cpu", enabled=False):
            excited = of_scale * ((scale > 0) & (scale < 1)) / 6
            hidden = excited.mm(w2) * (squeezed > 0)
            level = hidden.mm(w1) / (x.shape[2] * x.shape[3])
            of_w1, of_w2 = hidden.t().mm(means), excited.t().mm(squeezed)
        return _scale_and_lift(gradient, scale, level), of_w1, hidden.sum(0), of_w2, excited.sum(0)


def _scale_and_lift(x: Tensor, scale: Tensor, level: Tensor) -> Tensor:
    """x (N, C, H, W) times scale (N, C) plus level (N, C)."""
    out = torch.empty_like(x)
    _kernels(x).scale_and_lift(x, scale, level, out, *_images(x), torch.get_num_threads())
    return out


def _kernels(x: Tensor) -> ctypes.CDLL:
    """The library for maps of x's type, which is there."""
    found = library(x.dtype)
    assert found is not None  # dispatch.py has looked
    return found


def _ordered(x: Tensor) -> Tensor:
    """A gradient may come in any order, and so may a saved map that hooks of the user's packed."""
    return x.contiguous(memory_format=torch.channels_last)


def _rows(x: Tensor) -> tuple[int, int]:
    """(N, C, H, W) -> rows N x H x W and channels."""
    return x.numel() // x.shape[1], x.shape[1]


def _images(x: Tensor) -> tuple[int, int, int]:
    """(N, C, H, W) -> images, pixels of each and channels."""
    return x.shape[0], x.shape[2] * x.shape[3], x.shape[1]
